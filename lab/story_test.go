package lab_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/service"
)

var update = flag.Bool("update", false, "write what the stories print into their files")

// playStories plays testdata/stories/DIR/*.txt on a cluster, one after the
// other: commands, "----", what they print, an empty line. The first line of a
// file says what it guards. The commands are in story.run. "..." in what is
// expected stands for any text.
//
// Lockids are printed as letters, a new one for each lockid of a node that was
// not seen before: the same letter means the same lockid. Of fencing tokens it
// is told whether they grow.
func playStories(t *testing.T, r *serviceRig, dir string) {
	files, err := filepath.Glob(filepath.Join("testdata/stories", dir, "*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			r.fresh(t)
			file, err := os.ReadFile(f)
			require.NoError(t, err)
			s := newStory(t, r)
			defer s.end()
			got := s.play(file)
			if *update {
				require.NoError(t, os.WriteFile(f, got, 0o644))
				return
			}
			require.Equal(t, string(file), string(got), "go test ./lab -run ... -update writes the new output")
		})
	}
}

// story is the state of one file.
type story struct {
	t       *testing.T
	rig     *serviceRig
	out     bytes.Buffer
	clients map[int]*client.Client
	peers   map[int]*peerProcess
	holders map[int]*peerProcess // with a lock, by node
	heard   map[int]*hearing
	jobs    map[string]*job
	lockids map[string]string      // "node/lockid" to letter
	letters int                    // how many were given
	tokens  map[string]uint64      // the last by node and resource
	pids    map[string]uint32      // of processes by name
	crowds  map[int]*client.Client // whose Requests wait
	saved   map[int][]byte         // state files put aside
	shown   []uint32               // the orphans listed last
}

func newStory(t *testing.T, r *serviceRig) *story {
	return &story{t: t, rig: r, clients: map[int]*client.Client{}, peers: map[int]*peerProcess{}, holders: map[int]*peerProcess{}, heard: map[int]*hearing{},
		jobs: map[string]*job{}, lockids: map[string]string{}, tokens: map[string]uint64{}, pids: map[string]uint32{}, crowds: map[int]*client.Client{}, saved: map[int][]byte{}}
}

func (s *story) end() {
	s.rig.openFenceGate()
	for _, c := range s.clients {
		c.Close()
	}
	for _, p := range s.peers {
		p.close()
	}
	for _, p := range s.holders {
		p.close()
	}
	for _, c := range s.crowds {
		c.Close()
	}
}

// play returns the file with the output that the commands really had; what was
// expected stays where it fits.
func (s *story) play(file []byte) []byte {
	var out bytes.Buffer
	blocks := strings.Split(strings.TrimRight(string(file), "\n"), "\n\n")
	for i, block := range blocks {
		commands, want, ok := strings.Cut(block, "\n----\n")
		if !ok {
			commands, ok = strings.CutSuffix(block, "\n----")
			want = ""
		}
		if i > 0 {
			out.WriteString("\n")
		}
		if !ok {
			require.Truef(s.t, isComment(block), "no ---- after %q", block)
			out.WriteString(block + "\n")
			continue
		}
		for line := range strings.SplitSeq(commands, "\n") {
			if !strings.HasPrefix(line, "#") {
				s.command(line)
			}
		}
		got := strings.TrimRight(s.out.String(), "\n")
		s.out.Reset()
		if fits(want, got) {
			got = want
		}
		out.WriteString(commands + "\n----\n")
		if got != "" {
			out.WriteString(got + "\n")
		}
		if s.t.Failed() {
			s.t.Logf("after this block the story was given up:\n%s", out.String())
			s.t.FailNow()
		}
	}
	return out.Bytes()
}

func isComment(block string) bool {
	for line := range strings.SplitSeq(block, "\n") {
		if !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

// fits compares output with what is expected, where "..." stands for any text
// within a line.
func fits(want, got string) bool {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	if len(w) != len(g) {
		return false
	}
	for i := range w {
		expr := strings.ReplaceAll(regexp.QuoteMeta(w[i]), `\.\.\.`, ".*")
		if !regexp.MustCompile("^" + expr + "$").MatchString(g[i]) {
			return false
		}
	}
	return true
}

// job is a command that runs beside the story.
type job struct {
	done chan struct{}
	out  bytes.Buffer
}

// commandTime bounds one command, untilTime a wait for something to become so.
const (
	commandTime = 2 * time.Minute
	untilTime   = 3 * time.Minute
)

// command carries out one line:
//
//	COMMAND                 and print what it prints
//	&NAME COMMAND           begin it; it goes on beside the story
//	wait NAME               for the end of that, and print what it printed
//	waits NAME              check that it has not ended
//	until PATTERN COMMAND   again and again, until it prints a line that
//	                        matches; prints the match. _ stands for a blank
//	until-not PATTERN COMMAND
//	                        again and again, until nothing that it prints
//	                        matches; prints that
func (s *story) command(line string) {
	words := strings.Fields(line)
	started := time.Now()
	defer func() { s.t.Logf("%6.1fs %s", time.Since(started).Seconds(), line) }()
	switch {
	case len(words) == 0:
	case strings.HasPrefix(words[0], "&"):
		j := &job{done: make(chan struct{})}
		s.jobs[words[0][1:]] = j
		do := s.prepare(words[1:])
		go func() {
			defer close(j.done)
			ctx, cancel := context.WithTimeout(context.Background(), untilTime)
			defer cancel()
			do(ctx, &j.out)
		}()
	case words[0] == "wait":
		select {
		case <-s.jobs[words[1]].done:
			s.out.Write(s.jobs[words[1]].out.Bytes())
		case <-time.After(untilTime):
			s.t.Errorf("%s has not ended after %v", words[1], untilTime)
		}
	case words[0] == "waits":
		select {
		case <-s.jobs[words[1]].done:
			s.t.Errorf("%s has ended: %s", words[1], s.jobs[words[1]].out.String())
		default:
			fmt.Fprintln(&s.out, "it waits")
		}
	case words[0] == "until", words[0] == "until-not":
		s.until(strings.ReplaceAll(words[1], "_", " "), words[2:], words[0] == "until")
	default:
		ctx := lab.Context(s.t, line, commandTime)
		s.prepare(words)(ctx, &s.out)
	}
}

func (s *story) until(pattern string, words []string, wanted bool) {
	expr := regexp.MustCompile(pattern)
	end := time.Now().Add(untilTime)
	for {
		var out bytes.Buffer
		ctx, cancel := context.WithDeadline(s.t.Context(), end)
		s.prepare(words)(ctx, &out)
		cancel()
		m := expr.Find(out.Bytes())
		if m != nil && wanted {
			fmt.Fprintf(&s.out, "%s\n", m)
			return
		}
		if m == nil && !wanted {
			s.out.Write(out.Bytes())
			return
		}
		if time.Now().After(end) {
			s.t.Errorf("after %v %q prints, where %q is wanted (%v):\n%s", untilTime, words, pattern, wanted, out.String())
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// letter is how a lockid is printed.
func (s *story) letter(node int, id uint32) string {
	storyMu.Lock()
	defer storyMu.Unlock()
	if id == 0 {
		return "none"
	}
	key := fmt.Sprintf("%d/%d", node, id)
	if s.lockids[key] == "" {
		s.lockids[key] = string(rune('A' + s.letters))
		s.letters++
	}
	return s.lockids[key]
}

// forget is told that a node was booted, or left a lockspace: its lockids are new
// ones, also where the numbers are old ones.
func (s *story) forget(node int) {
	storyMu.Lock()
	defer storyMu.Unlock()
	for key := range s.lockids {
		if strings.HasPrefix(key, fmt.Sprintf("%d/", node)) {
			delete(s.lockids, key)
		}
	}
}

// storyMu guards what jobs beside a story share with it.
var storyMu sync.Mutex

// token tells what the token of a resource did since the last one that this
// node was given. Between nodes whose clocks differ it may go back where nobody
// held the resource meanwhile: the kernel forgets the value block then.
func (s *story) token(node int, resource string, now uint64) string {
	storyMu.Lock()
	defer storyMu.Unlock()
	key := fmt.Sprintf("%d/%s", node, resource)
	last := s.tokens[key]
	s.tokens[key] = now
	s.t.Logf("the token of %s for node %d is %v from the one before", resource, node, time.Duration(now-last)*time.Microsecond)
	switch {
	case now < last:
		return "token went back"
	case now == last:
		return "token same"
	}
	return "token larger"
}

// client is the story's connection to a node's bus.
func (s *story) client(ctx context.Context, node int) (*client.Client, error) {
	storyMu.Lock()
	defer storyMu.Unlock()
	if c := s.clients[node]; c != nil {
		select {
		case <-c.Done():
		default:
			return c, nil
		}
	}
	c, err := s.rig.services[node].Dial(ctx)
	if err == nil {
		c.AutoStart(false)
		s.clients[node] = c
	}
	return c, err
}

// hearing is what was heard from a service since "listen".
type hearing struct {
	mu     sync.Mutex
	events []client.Event
}

func (s *story) listen(ctx context.Context, node int) error {
	c, err := s.client(ctx, node)
	if err != nil {
		return err
	}
	events, err := c.Watch(s.t.Context())
	if err != nil {
		return err
	}
	h := &hearing{}
	s.heard[node] = h
	go func() {
		for e := range events {
			h.mu.Lock()
			h.events = append(h.events, e)
			h.mu.Unlock()
		}
	}()
	return nil
}

// print prints what was heard so far.
func (h *hearing) print(out *bytes.Buffer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		line := string(e.Kind)
		for _, word := range []string{e.Lockspace, e.Resource, e.Mode, e.State} {
			if word != "" {
				line += " " + word
			}
		}
		if e.Node != 0 {
			line += fmt.Sprintf(" node %d", e.Node)
		}
		if e.Reason != "" {
			line += " (" + e.Reason + ")"
		}
		fmt.Fprintln(out, line)
	}
}

// daemonLog is everything that the daemons of a node have said.
func (s *story) daemonLog(node int) string {
	n := s.rig.cluster.Node(node)
	text, err := os.ReadFile(filepath.Join(s.rig.cluster.Artefacts(), n.Name+"."+service.LogName))
	require.NoError(s.t, err)
	return string(text[s.rig.logStart[node]:])
}
