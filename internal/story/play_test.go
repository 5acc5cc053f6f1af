package story

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMerge(t *testing.T) {
	want := []string{"n1: granted lkid=A, token ...", "n1: WouldBlock: ...held by node 1 (EX, ...)", "exact"}
	require.Equal(t, want, merge(want, []string{"n1: granted lkid=A, token larger",
		`n1: WouldBlock: another lock is in the way; held by node 1 (EX, "web1")`, "exact"}))
	got := []string{"more", `n1: WouldBlock: held by node 1 (EX, "web1")`, "exac"}
	require.Equal(t, []string{"more", want[1], "exac"}, merge(want, got),
		"a line that does not fit is what was printed, the others stay")
	require.Empty(t, merge(want, nil))
	require.Equal(t, []string{"b", "a", "c ..."}, merge([]string{"a", "b", "c ..."}, []string{"b", "a", "c d"}),
		"lines that changed places do not hide the ones after them")
}

// The letter is the lock's: a lockid that is used again is another lock, one that
// was adopted is the same.
func TestNames(t *testing.T) {
	n := newNames()
	require.Equal(t, "none", n.lock(1, "/org/example/DlmLock/lock/2", 0))
	require.Equal(t, "A", n.lock(1, "/org/example/DlmLock/lock/2", 7))
	require.Equal(t, "B", n.lock(2, "/org/example/DlmLock/lock/2", 7), "another node")
	require.Equal(t, "A", n.lock(1, "/org/example/DlmLock/lock/2", 7))
	require.Equal(t, "C", n.lock(1, "/org/example/DlmLock/lock/3", 7), "another lock under the same lockid")
	require.Equal(t, "C", n.orphan(1, 7), "its state was lost")
	n.stateLost(1)
	require.Equal(t, "C", n.lock(1, "/org/example/DlmLock/lock/2", 7), "adopted")
	require.Equal(t, "D", n.lock(1, "/org/example/DlmLock/lock/2", 8), "another lockid is not the same lock")
	n.booted(1)
	require.Equal(t, "E", n.lock(1, "/org/example/DlmLock/lock/2", 7))
	require.Equal(t, "B", n.lock(2, "/org/example/DlmLock/lock/2", 7))
	require.Equal(t, uint32(8), n.ids["D"])
}

func TestTokens(t *testing.T) {
	n := newNames()
	require.Equal(t, "no token", n.token(1, "vms/a", 0))
	require.Equal(t, "token larger", n.token(1, "vms/a", 5))
	require.Equal(t, "token same", n.token(1, "vms/a", 5))
	require.Equal(t, "token larger", n.token(2, "vms/a", 4), "another node")
	require.Equal(t, "token went back by 1µs", n.token(1, "vms/a", 4))
}

// fakeBackend prints the verb of each command.
type fakeBackend struct {
	Backend
	done []string
}

func (f *fakeBackend) Place() Place { return Nodes }
func (f *fakeBackend) Settle()      {}

func (f *fakeBackend) Do(_ context.Context, c *Command, out *Output) error {
	f.done = append(f.done, c.Verb)
	out.Line("%s %d", strings.Join(append([]string{c.Verb}, c.Args...), " "), len(f.done))
	return nil
}

// failures records what a story says to its test.
type failures struct {
	testing.TB
	said string
}

func (f *failures) Errorf(format string, a ...any) {
	f.said += strings.TrimSpace(fmt.Sprintf(format, a...))
}
func (*failures) Helper()             {}
func (*failures) Logf(string, ...any) {}

const played = `# Guards the player.
n1 boot
until /crash 4/ n1 crash
&j n1 isolate
wait j
----
boot 1
crash 3
isolate 4
`

func TestPlay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "played.txt")
	text := strings.Replace(played, "the player.", "the player.\n# Only nodes: it is a test.", 1)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	s, err := Parse(path, text)
	require.NoError(t, err)
	f := &failures{TB: t}
	b := &fakeBackend{}
	Play(f, s, b, false)
	require.Equal(t, []string{"boot", "crash", "crash", "crash", "isolate"}, b.done)
	require.Contains(t, f.said, path+":3: after", "where it went another way")
	require.Contains(t, f.said, "! crash 3\n", "what was expected")
	require.Contains(t, f.said, "! crash 4\n\t! isolate 5", "what happened")
	require.Contains(t, f.said, "\n\t  boot 1\n", "what is as expected has no mark")

	Play(f, s, &fakeBackend{}, true)
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, strings.NewReplacer("crash 3", "crash 4", "isolate 4", "isolate 5").Replace(text), string(now))
	s, err = Parse(path, string(now))
	require.NoError(t, err)
	f.said = ""
	Play(f, s, &fakeBackend{}, false)
	require.Empty(t, f.said)
}
