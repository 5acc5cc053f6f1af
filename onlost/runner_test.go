package onlost

import (
	"bytes"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

const patience = time.Minute

// book is a log that can be read while it is written.
type book struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *book) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// rig is a Runner whose helpers are shell scripts that work in dir.
type rig struct {
	*Runner
	t     *testing.T
	dir   string
	log   book
	ended chan api.Ref
}

func newRig(t *testing.T, parallel int, scripts map[string]string, timeout time.Duration) *rig {
	r := &rig{t: t, dir: t.TempDir(), ended: make(chan api.Ref, 100)}
	helpers := map[string]Helper{}
	for name, script := range scripts {
		helpers[name] = Helper{Command: []string{"/bin/sh", "-c", "cd " + r.dir + "; " + script, "sh", "argument"},
			Timeout: timeout}
	}
	r.Runner = New(Config{Helpers: helpers, Parallel: parallel, Log: slog.New(slog.NewTextHandler(&r.log, nil))})
	t.Cleanup(r.Close)
	return r
}

func lost(ref api.Ref, helper, owner string) api.LostRun {
	return api.LostRun{
		Helper: helper, Data: "qemu:///system pause", PIDStart: 4711,
		Lost: api.Lost{Reason: "somebody else", At: time.UnixMicro(1_234_567), LockInfo: api.LockInfo{
			Ref: ref, Lockspace: "vms", Resource: "disk\n1", LockID: 9, Mode: dlm.EX, Owner: owner,
			HasOwner: owner != "",
			Label:    "$(touch pwned) `touch pwned`", UID: 107, PID: 42,
		}},
	}
}

func (r *rig) start(run api.LostRun) { r.Run(run, func() { r.ended <- run.Ref }) }

func (r *rig) wait() api.Ref {
	select {
	case ref := <-r.ended:
		return ref
	case <-time.After(patience):
		require.Fail(r.t, "the helper has not ended", r.log.String())
		return 0
	}
}

func (r *rig) read(name string) string {
	text, err := os.ReadFile(filepath.Join(r.dir, name))
	require.NoError(r.t, err)
	return string(text)
}

// appears waits until a helper has made a file.
func (r *rig) appears(name string) {
	require.Eventually(r.t, func() bool {
		info, err := os.Stat(filepath.Join(r.dir, name))
		return err == nil && info.Size() > 0
	}, patience, time.Millisecond)
}

// A helper gets its words as data in a fixed environment, and nothing else.
func TestEnvironment(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/run/systemd/notify")
	r := newRig(t, 0,
		map[string]string{"show": "env > env; printf %s \"$DLM_RESOURCE\" > resource; pwd > pwd; cat > in; echo $1 " +
			"> args; ps -o pgid= -p $$ > group; echo $$ > pid; echo said"}, time.Minute)
	r.start(lost(1, "show", "vm/42/4711"))
	require.Equal(t, api.Ref(1), r.wait())
	have := map[string]bool{}
	for l := range strings.Lines(r.read("env")) {
		have[strings.TrimSuffix(l, "\n")] = true
	}
	for _, l := range []string{
		"DLM_HELPER=show", "DLM_LOCKSPACE=vms", "DLM_LOCKID=9", "DLM_MODE=EX", "DLM_OWNER=vm/42/4711",
		"DLM_LABEL=$(touch pwned) `touch pwned`", "DLM_DATA=qemu:///system pause", "DLM_REASON=somebody else",
		"DLM_UID=107",
		"DLM_PID=42", "DLM_PID_START=4711", "DLM_LOST_USEC=1234567", "HOME=/", "LANG=C.UTF-8",
	} {
		require.Contains(t, have, l)
	}
	require.NotContains(t, r.read("env"), "NOTIFY_SOCKET", "the service's own environment stays with it")
	require.Empty(t, r.read("in"))
	require.Equal(t, "argument\n", r.read("args"))
	require.Equal(t, "disk\n1", r.read("resource"), "as it is, not as the log shows it")
	require.Equal(t, strings.TrimSpace(r.read("pid")), strings.TrimSpace(r.read("group")), "a process group of its own")
	require.NoFileExists(t, filepath.Join(r.dir, "pwned"))
	require.Contains(t, r.log.String(), `output=said status=0`)
}

func TestFailuresAreLogged(t *testing.T) {
	r := newRig(t, 0, map[string]string{"fails": "echo why >&2; exit 3", "dies": "kill -9 $$",
		"babbles": "yes | head -c 100000"}, time.Minute)
	more := maps.Clone(r.cfg.Helpers)
	more["missing"] = Helper{Command: []string{r.dir + "/nothing"}, Timeout: time.Minute}
	r.Configure(more)
	for i, tc := range []struct{ helper, want string }{
		{"fails", `msg="the helper of a lost lock has failed" on-lost=fails lockspace=vms resource=disk\n1 owner=vm took=`},
		{"fails", `output=why status=3`},
		{"dies", `status=-1 err="signal: killed"`},
		{"missing", `could not be started`},
		{"unknown", `is no longer configured, so nothing is done`},
		{"babbles", `status=0`},
	} {
		r.start(lost(api.Ref(i), tc.helper, "vm"))
		r.wait()
		require.Contains(t, r.log.String(), tc.want, tc.helper)
	}
	require.Less(t, len(r.log.String()), 8<<10, "what a helper prints is bounded")
}

// A helper that can't be started because no descriptor is left has not been run.
func TestNoDescriptorIsNoEnd(t *testing.T) {
	r := newRig(t, 0, map[string]string{"late": "echo x > ran"}, time.Minute)
	r.cfg.Pause = time.Millisecond
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	restore := func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }
	t.Cleanup(restore)
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}))
	r.start(lost(1, "late", "vm"))
	require.Eventually(t, func() bool { return strings.Count(r.log.String(), "the service tries again") > 2 }, patience,
		time.Millisecond)
	require.Empty(t, r.ended)
	restore()
	r.wait()
	require.Equal(t, "x\n", r.read("ran"))
}

// The end of the service does not wait for it.
func TestCloseWhileItCanNotStart(t *testing.T) {
	r := newRig(t, 0, map[string]string{"late": "echo x > ran"}, time.Minute)
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}))
	r.cfg.Pause = time.Millisecond
	r.start(lost(1, "late", "vm"))
	require.Eventually(t, func() bool { return strings.Contains(r.log.String(), "the service tries again") }, patience,
		time.Millisecond)
	r.Close()
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	require.Empty(t, r.ended)
	require.Contains(t, r.log.String(), "it is run again at the next start")
}

// A helper that runs too long is killed with its children.
func TestTimeoutKillsTheGroup(t *testing.T) {
	r := newRig(t, 0, map[string]string{"hangs": "exec 9> held; sleep 1000 & wait"}, 300*time.Millisecond)
	// Both have the writing end of a pipe, however far they have come when the time is over.
	pipe := filepath.Join(r.dir, "held")
	require.NoError(t, unix.Mkfifo(pipe, 0o600))
	read, err := unix.Open(pipe, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(read)
	r.start(lost(1, "hangs", "vm"))
	r.wait()
	require.Contains(t, r.log.String(), "its time was over")
	require.Eventually(t, func() bool {
		n, err := unix.Read(read, make([]byte, 1))
		return n == 0 && err == nil // nobody has it
	}, patience, time.Millisecond)
}

// Helpers of one owner run one after the other, those of different owners beside each other, and
// never more than allowed.
func TestOrderAndBound(t *testing.T) {
	r := newRig(t, 2, map[string]string{"waits": `mkdir "in-$DLM_OWNER" || echo twice > twice
		echo "$DLM_LOCKID" >> "order-$DLM_OWNER"; echo x > "began-$DLM_LOCKID"
		while [ ! -e go ]; do sleep 0.01; done; rmdir "in-$DLM_OWNER"`}, time.Minute)
	for i := range 6 {
		run := lost(api.Ref(i), "waits", []string{"a", "a", "a", "b", "c", "c"}[i])
		run.LockID = dlm.LockID(i)
		r.start(run)
	}
	r.appears("began-0")
	r.appears("began-3")
	began, err := filepath.Glob(filepath.Join(r.dir, "began-*"))
	require.NoError(t, err)
	require.Len(t, began, 2, "two at once, the first of a and the first of b")
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "go"), nil, 0o600))
	for range 6 {
		r.wait()
	}
	require.Equal(t, "0\n1\n2\n", r.read("order-a"))
	require.Equal(t, "4\n5\n", r.read("order-c"))
	require.NoFileExists(t, filepath.Join(r.dir, "twice"), "one owner's never overlap")
	require.Empty(t, r.lines)
}

// Close kills the running helpers, starts no more, and reports none of them as ended: the next
// start runs them again.
func TestCloseLeavesThemToTheNextStart(t *testing.T) {
	r := newRig(t, 1, map[string]string{"hangs": "echo $$ > pid; sleep 1000"}, time.Minute)
	r.start(lost(1, "hangs", "a"))
	r.start(lost(2, "hangs", "b"))
	r.appears("pid")
	r.Close()
	require.Empty(t, r.ended)
	pid, err := strconv.Atoi(strings.TrimSpace(r.read("pid")))
	require.NoError(t, err)
	require.ErrorIs(t, unix.Kill(pid, 0), unix.ESRCH)
	r.start(lost(3, "hangs", "c"))
	require.Zero(t, r.running)
	require.Contains(t, r.log.String(), "it is run again at the next start")
}
