package story

import (
	"fmt"
	"regexp"
	"strings"
)

// Place is where a story can happen, as bits.
type Place uint8

// The places.
const (
	Embedded Place = 1 << iota // the embedded engine's simulated cluster, in this process
	Nodes                      // the nodes of the lab

	Both = Embedded | Nodes
)

func (p Place) String() string {
	switch p {
	case Embedded:
		return "the embedded engine"
	case Nodes:
		return "nodes"
	}
	return "both"
}

// Story is one file.
type Story struct {
	Path   string
	Name   string // the file's name without .txt
	Guards string // what it guards, for people
	Places Place  // where it can happen
	Why    string // why it can't happen in the other place
	Nodes  int    // how many nodes it needs
	Fenced bool   // the nodes power lost ones off
	Kernel string // the one kernel on which the lab plays it; "": on each
	Last   bool   // nodes don't survive it

	blocks []block
}

// block is what stands between two empty lines: commands with what they are to
// print, or a comment.
type block struct {
	source   []string // the comments and commands as they are written
	commands []Command
	answered bool     // "----" follows the commands
	want     []string // what they are to print
}

// Command is one line of a story.
type Command struct {
	Line int    // where it stands in its file
	Text string // as it is written

	Job   string         // &NAME: begin it and go on
	Until *regexp.Regexp // until /PATTERN/, until-not /PATTERN/: again and again
	Not   bool           // until-not

	Caller  string // who calls; root unless it says otherwise
	Node    int    // where; 0 for a command about the cluster
	Verb    string
	Args    []string
	Options map[string]string
}

// Arg returns an argument by its place, or "" where there is no such argument.
func (c *Command) Arg(i int) string {
	if i < len(c.Args) {
		return c.Args[i]
	}
	return ""
}

// Resource splits an argument LOCKSPACE/RESOURCE.
func (c *Command) Resource(i int) (lockspace, resource string) {
	lockspace, resource, _ = strings.Cut(c.Arg(i), "/")
	return lockspace, resource
}

// who is the caller of a command and where, as a story writes it.
func (c *Command) who() string {
	if c.Caller == rootName {
		return fmt.Sprintf("n%d", c.Node)
	}
	return fmt.Sprintf("%s@n%d", c.Caller, c.Node)
}

// text returns the file with other output in it.
func (s *Story) text(outputs [][]string) string {
	var b strings.Builder
	for i, bl := range s.blocks {
		if i > 0 {
			b.WriteString("\n")
		}
		for _, line := range bl.source {
			b.WriteString(line + "\n")
		}
		if !bl.answered {
			continue
		}
		b.WriteString("----\n")
		for _, line := range outputs[i] {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// outputs is what the file says that its commands print, by block.
func (s *Story) outputs() [][]string {
	out := make([][]string, len(s.blocks))
	for i, bl := range s.blocks {
		out[i] = bl.want
	}
	return out
}
