package story

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const good = `# Guards that a story says
# what it is for.
# Nodes: 3, fenced
# Only nodes: the network is cut.
# Kernel: 6.12
# Last: nothing is left.
caller bob uid=1000
n1 start-daemon
&job-1 bob@n2 acquire vms/disk1 EX pool/x PR owner="a b" wait=1s
until /waiting node 2/ n1 inspect vms/a
until-not /a\/b|(?i)c/ n3 list
wait job-1 within=300ms
----
n1: something...
  below it

# A comment alone.

partition 1,2 3
n1 stop-controld
n1 stop-controld force
bob@n1 acquire owner=
----
`

func TestParse(t *testing.T) {
	s, err := Parse("dir/good.txt", good)
	require.NoError(t, err)
	require.Equal(t, "good", s.Name)
	require.Equal(t, "that a story says what it is for.", s.Guards)
	require.Equal(t, "the network is cut.", s.Why)
	require.Equal(t, Nodes, s.Places)
	require.Equal(t, 3, s.Nodes)
	require.True(t, s.Fenced)
	require.True(t, s.Last)
	require.Equal(t, "6.12", s.Kernel)
	require.Len(t, s.blocks, 3)
	c := s.blocks[0].commands
	require.Equal(t, Command{Line: 9, Text: `&job-1 bob@n2 acquire vms/disk1 EX pool/x PR owner="a b" wait=1s`,
		Job: "job-1", Caller: "bob", Node: 2, Verb: "acquire", Args: []string{"vms/disk1", "EX", "pool/x", "PR"},
		Options: map[string]string{"owner": "a b", "wait": "1s"}}, c[2])
	require.Equal(t, "(?m)waiting node 2", c[3].Until.String())
	require.False(t, c[3].Not)
	require.True(t, c[4].Not)
	require.Equal(t, `(?m)a\/b|(?i)c`, c[4].Until.String())
	require.Equal(t, []string{"n1: something...", "  below it"}, s.blocks[0].want)
	require.Equal(t, good, s.text(s.outputs()), "what is written is what was read")
}

// A mistake is told with its line and with what is expected.
func TestParseErrors(t *testing.T) {
	const header = "# Guards something.\n"
	for _, c := range []struct{ text, err string }{
		{"", `story.txt:1: the first line says what the story is for: "# Guards ..." or "# Shows ..."`},
		{"n1 list\n----\n", "story.txt:1: the first line says"},
		{header + "# Nodes: many\n", `story.txt:2: "many": expected a number of nodes, 1 to 9`},
		{header + "# Nodes: 2, quick\n", "story.txt:2: "},
		{header + "# Only nodes: a.\n# Only embedded: b.\n", "story.txt:3: a story that can happen nowhere"},
		{header + "# Guards another thing.\n", "story.txt:2: Guards has been said already"},
		{header + "n1 list\n", `story.txt:2: "----" is missing after this line`},
		{header + "\n----\n", "story.txt:3: no command stands before this line"},
		{header + "\n\n# Another\n", "story.txt:3: one empty line stands between two blocks"},
		{header + "n1 lits\n----\n", `story.txt:2: there is no command "lits"`},
		{header + "n1\n----\n", "story.txt:2: expected a verb"},
		{header + "n2 list\n----\n", "story.txt:2: there is no node 2"},
		{header + "list\n----\n", `story.txt:2: list needs a node before it, as in "n1 list"`},
		{header + "n1 sleep 1s\n----\n", "story.txt:2: sleep is about the cluster: leave n1 out"},
		{header + "sleep 3\n----\n", "story.txt:2: sleep 3: expected a duration"},
		{header + "bob@n1 list\n----\n", `story.txt:2: nobody is called bob; introduce them: "caller bob uid=1000"`},
		{header + "caller bob\nbob@n1 crash\n----\n", "story.txt:3: crash is nobody's call: write n1 in place of bob@n1"},
		{header + "caller B\n----\n", `story.txt:2: "B" is no name for a caller`},
		{header + "caller bob uid=x\n----\n", "story.txt:2: uid=x: expected a number"},
		{header + "n1 inspect vms\n----\n", `story.txt:2: "vms" is not LOCKSPACE/RESOURCE`},
		{header + "n1 inspect\n----\n", `story.txt:2: 0 arguments; it is "inspect LOCKSPACE/RESOURCE"`},
		{header + "n1 acquire vms/a\n----\n", "story.txt:2: each resource needs a mode"},
		{header + "n1 acquire vms/a EX b EX\n----\n", `story.txt:2: "b" is not LOCKSPACE/RESOURCE`},
		{header + "n1 acquire vms/a EX wiat=1s\n----\n", "story.txt:2: acquire has no option wiat"},
		{header + "n1 acquire vms/a EX wait=1s wait=2s\n----\n", "story.txt:2: the option wait stands there twice"},
		{header + "n1 acquire vms/a EX wait=soon\n----\n", "story.txt:2: wait=soon: expected a duration"},
		{header + "n1 acquire vms/a EX label=\"a b\n----\n", `story.txt:2: "a b: the quotation has no end`},
		{header + "n1 acquire vms/a EX label=\"a\"b\n----\n", "story.txt:2: b: a blank is expected after a quotation"},
		{header + "wait b\n----\n", `story.txt:2: no job is called b; "&b" before a command begins one`},
		{header + "& n1 list\n----\n", `story.txt:2: "&": expected the name of a job`},
		{header + "&b until /x/ n1 list\n----\n", "story.txt:2: a job can't be repeated"},
		{header + "until x n1 list\n----\n", `story.txt:2: expected a pattern and a command, as in "until /waiting`},
		{header + "until /(/ n1 list\n----\n", "story.txt:2: the pattern: error parsing regexp"},
		{header + "heal\n----\n", `story.txt:2: heal is not there on the embedded engine; if the story needs it, its header`},
		{header + "# Only nodes: a.\nquorum no\n----\n", "story.txt:3: quorum is not there on nodes"},
	} {
		_, err := Parse("story.txt", c.text)
		require.ErrorContains(t, err, c.err, "%s", c.text)
		require.IsType(t, &Error{}, err)
	}
}

// Every verb's usage is one that its own check understands.
func TestVerbs(t *testing.T) {
	for name, want := range map[string][2]int{
		"calm": {0, 0}, "sleep": {1, 1}, "wait": {1, 1}, "partition": {2, -1}, "stop-controld": {0, 1}, "acquire": {0, -1},
		"acquire-all": {2, -1}, "convert": {2, 2}, "release-many": {1, -1}, "reload": {0, -1}, "heard": {0, 1},
		"status": {1, -1}, "adopt": {2, 2}, "process": {1, 1}, "stop-lockspace": {2, -1},
	} {
		least, most := verbOf(name).bounds()
		require.Equal(t, want, [2]int{least, most}, name)
	}
	require.Equal(t, []string{"owner", "lock", "value", "wait", "tokens"}, verbOf("convert").options())
}

// FuzzParse: whatever is in a file, it is refused with an *Error, or what is
// written for it is read as the same story.
func FuzzParse(f *testing.F) {
	f.Add(good)
	paths, err := filepath.Glob("testdata/stories/*.txt")
	require.NoError(f, err)
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse("story.txt", text)
		if err != nil {
			require.IsType(t, &Error{}, err)
			return
		}
		again, err := Parse("story.txt", s.text(s.outputs()))
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}
