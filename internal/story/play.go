package story

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/client"
)

// commandTime bounds one command, untilTime a wait for something to become so.
// Both are generous: emulated nodes are slow.
const (
	commandTime = 2 * time.Minute
	untilTime   = 3 * time.Minute
	pollTime    = 100 * time.Millisecond
)

// Play plays a story and compares what its commands print with the file; with
// update it writes the file instead.
func Play(t testing.TB, s *Story, b Backend, update bool) {
	t.Helper()
	p := &player{t: t, story: s, backend: b, names: newNames(),
		callers:  map[string]Caller{rootName: {Name: rootName, PID: 1}},
		services: map[string]Service{}, heard: map[string]*hearing{}, jobs: map[string]*job{}}
	defer p.end()
	outputs := s.outputs()
	for i := range s.blocks {
		if err := p.block(&s.blocks[i], &outputs[i]); err != nil {
			t.Fatalf("%v\nThe story so far:\n%s", err, s.text(outputs))
		}
	}
	text := s.text(outputs)
	if text == s.text(s.outputs()) {
		return
	}
	if update {
		if err := os.WriteFile(s.Path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s: the story went another way; -update writes what happened\n%s", s.Path, s.differences(outputs))
}

// differences shows the blocks that printed something else.
func (s *Story) differences(outputs [][]string) string {
	var b strings.Builder
	for i, bl := range s.blocks {
		if slices.Equal(bl.want, outputs[i]) {
			continue
		}
		fmt.Fprintf(&b, "%s:%d: after\n\t%s\nexpected\n", s.Path, bl.commands[0].Line, strings.Join(bl.source, "\n\t"))
		for _, line := range bl.want {
			fmt.Fprintf(&b, "\t%s%s\n", mark(outputs[i], line), line)
		}
		b.WriteString("and this happened\n")
		for _, line := range outputs[i] {
			fmt.Fprintf(&b, "\t%s%s\n", mark(bl.want, line), line)
		}
	}
	return b.String()
}

// mark is set before a line that the other side lacks.
func mark(other []string, line string) string {
	if slices.Contains(other, line) {
		return "  "
	}
	return "! "
}

// player plays one story.
type player struct {
	t       testing.TB
	story   *Story
	backend Backend
	names   *names
	callers map[string]Caller
	heard   map[string]*hearing
	jobs    map[string]*job
	orphans []uint32 // those that were listed last
	before  *Command // the command before this one

	mu       sync.Mutex // guards services, which jobs use as well
	services map[string]Service
}

// job is a command that goes on beside the story.
type job struct {
	cancel context.CancelFunc
	done   chan struct{}
	out    *Output // what it has printed already, if it is no call
	print  answer
	err    error
}

func (p *player) end() {
	for _, j := range p.jobs {
		j.cancel()
	}
	for _, s := range p.services {
		_ = s.Close()
	}
	for _, j := range p.jobs {
		<-j.done
	}
}

// block carries out the commands of a block. Where they print what is expected,
// want stays as it is.
func (p *player) block(b *block, want *[]string) error {
	var got []string
	for i := range b.commands {
		c := &b.commands[i]
		out := p.output(c, p.names)
		started := time.Now()
		err := p.command(c, out)
		p.before = c
		if p.backend.Place() == Nodes {
			p.t.Logf("%6.1fs %s", time.Since(started).Seconds(), c.Text)
		}
		for line := range strings.SplitSeq(out.buf.String(), "\n") {
			if line = strings.TrimRight(line, " "); line != "" {
				got = append(got, line)
			}
		}
		if err != nil {
			*want = got
			return &Error{Path: p.story.Path, Line: c.Line, Text: fmt.Sprintf("%s: %v", c.Text, err)}
		}
	}
	*want = merge(b.want, got)
	return nil
}

func (p *player) output(c *Command, n *names) *Output {
	out := &Output{names: n, place: p.backend.Place(), node: c.Node, who: fmt.Sprintf("n%d", c.Node)}
	if c.Caller != rootName {
		out.who = c.Caller + "@" + out.who
	}
	return out
}

// merge returns what was printed, but each line that fits an expected one as it is
// expected: "..." there stands for any text within a line. The pairs are those of
// the longest common sequence.
func merge(want, got []string) []string {
	best := make([][]int, len(got)+1) // of got[i:] and want[k:]
	for i := range best {
		best[i] = make([]int, len(want)+1)
	}
	pair := make([][]bool, len(got))
	for i := len(got) - 1; i >= 0; i-- {
		pair[i] = make([]bool, len(want))
		for k := len(want) - 1; k >= 0; k-- {
			best[i][k] = max(best[i+1][k], best[i][k+1])
			if pair[i][k] = fits(want[k], got[i]); pair[i][k] {
				best[i][k] = max(best[i][k], best[i+1][k+1]+1)
			}
		}
	}
	merged := slices.Clone(got)
	for i, k := 0, 0; i < len(got) && k < len(want); {
		switch {
		case pair[i][k] && best[i][k] == best[i+1][k+1]+1:
			merged[i] = want[k]
			i, k = i+1, k+1
		case best[i][k] == best[i+1][k]:
			i++
		default:
			k++
		}
	}
	return merged
}

// fits compares a line with what is expected.
func fits(want, got string) bool {
	if !strings.Contains(want, "...") {
		return want == got
	}
	expr := strings.ReplaceAll(regexp.QuoteMeta(want), `\.\.\.`, ".*")
	return regexp.MustCompile("^" + expr + "$").MatchString(got)
}

// command carries out one line.
func (p *player) command(c *Command, out *Output) error {
	switch {
	case c.Job != "":
		p.begin(c)
		return nil
	case c.Until != nil:
		return p.until(c, out)
	}
	p.backend.Settle()
	limit := commandTime
	if c.Verb == "wait" {
		limit = untilTime
		if d, err := time.ParseDuration(c.Options["within"]); err == nil {
			limit = d
		}
	}
	ctx, cancel := context.WithTimeout(p.t.Context(), limit)
	defer cancel()
	print, err := p.perform(ctx, c, out)
	return p.print(print, err, out)
}

// print prints what came of a command, or its refusal.
func (p *player) print(print answer, err error, out *Output) error {
	if err != nil {
		var ok bool
		if print, ok = refusal(err); !ok {
			return err
		}
	}
	if print != nil {
		print(out)
	}
	return nil
}

// begin starts a job. Jobs of one connection that follow each other are handed
// over without a pause; everything else has come to rest before.
func (p *player) begin(c *Command) {
	if p.before == nil || p.before.Job == "" || p.before.Caller != c.Caller || p.before.Node != c.Node {
		p.backend.Settle()
	}
	info := &jobInfo{name: c.Job, asked: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.WithValue(p.t.Context(), jobKey{}, info))
	j := &job{cancel: cancel, done: make(chan struct{}), out: p.output(c, newNames())}
	p.jobs[c.Job] = j
	go func() {
		defer close(j.done)
		j.print, j.err = p.perform(ctx, c, j.out)
	}()
	if p.backend.Place() == Embedded {
		select {
		case <-info.asked:
		case <-j.done:
		}
	}
}

// until repeats a command until it prints, or no longer prints, something.
func (p *player) until(c *Command, out *Output) error {
	end := time.Now().Add(untilTime)
	for {
		try := p.output(c, p.names.clone())
		ctx, cancel := context.WithDeadline(p.t.Context(), end)
		print, err := p.perform(ctx, c, try)
		cancel()
		if err = p.print(print, err, try); err != nil {
			return err
		}
		m := c.Until.Find(try.buf.Bytes())
		if (m == nil) == c.Not {
			p.names, out.names = try.names, try.names
			if h := p.heard[c.Caller+fmt.Sprint(c.Node)]; h != nil && c.Verb == "heard" {
				h.shown = h.seen
			}
			if c.Not {
				m = try.buf.Bytes()
			}
			out.Line("%s", strings.TrimRight(string(m), "\n"))
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not so after %v; it prints\n%s", untilTime, try.buf.String())
		}
		time.Sleep(pollTime)
	}
}

// perform does what a command says, and returns how it is printed.
func (p *player) perform(ctx context.Context, c *Command, out *Output) (answer, error) {
	switch c.Verb {
	case "sleep":
		d, _ := time.ParseDuration(c.Arg(0))
		time.Sleep(d)
		return nil, nil
	case "caller":
		uid := number(c.Options["uid"])
		pid := number(c.Options["pid"])
		p.callers[c.Arg(0)] = Caller{Name: c.Arg(0), UID: uid, PID: pid}
		return nil, nil
	case "calm":
		return nil, p.calm(ctx)
	case "wait", "waits":
		return p.waitFor(ctx, c)
	}
	if v := verbOf(c.Verb); v.scope != ofCaller {
		err := p.backend.Do(ctx, c, out)
		switch {
		case err != nil:
		case c.Verb == "crash" || c.Verb == "boot":
			p.names.booted(c.Node)
		case c.Verb == "lose-state":
			p.names.stateLost(c.Node)
		}
		return nil, err
	}
	s, err := p.service(ctx, c)
	if err != nil {
		return nil, err
	}
	switch c.Verb {
	case "cancel":
		return p.cancel(ctx, c, s)
	case "vanish":
		return nil, p.vanish(c)
	case "listen":
		return nil, p.listen(c, s)
	case "heard":
		return p.printHeard(c), nil
	}
	print, err := p.call(ctx, c, s)
	if errors.Is(err, errNoCall) {
		return nil, p.backend.Do(ctx, c, out)
	}
	return print, err
}

// waitFor waits for a job, or checks that it still runs.
func (p *player) waitFor(ctx context.Context, c *Command) (answer, error) {
	j := p.jobs[c.Arg(0)]
	if j == nil {
		return nil, fmt.Errorf("no job is called %s", c.Arg(0))
	}
	if c.Verb == "waits" {
		select {
		case <-j.done:
			return nil, errors.New("it has ended")
		default:
			return func(out *Output) { out.Line("%s waits", c.Arg(0)) }, nil
		}
	}
	select {
	case <-j.done:
	case <-ctx.Done():
		return nil, errors.New("it does not end")
	}
	begun := p.jobCommand(c.Arg(0), c.Line)
	return func(out *Output) {
		inner := p.output(begun, out.names)
		if err := p.print(j.print, j.err, inner); err != nil {
			p.t.Errorf("%s:%d: %v", p.story.Path, begun.Line, err)
		}
		_, _ = out.Write(j.out.buf.Bytes())
		_, _ = out.Write(inner.buf.Bytes())
	}, nil
}

// jobCommand is the last command before a line that began a job.
func (p *player) jobCommand(job string, line int) (begun *Command) {
	for i := range p.story.blocks {
		for k := range p.story.blocks[i].commands {
			if c := &p.story.blocks[i].commands[k]; c.Job == job && c.Line < line {
				begun = c
			}
		}
	}
	return begun
}

func (p *player) cancel(ctx context.Context, c *Command, s Service) (answer, error) {
	if canceler, ok := s.(Canceler); ok {
		return said("canceled"), canceler.CancelJob(ctx, c.Arg(0))
	}
	p.jobs[c.Arg(0)].cancel()
	return said("canceled"), nil
}

// service is the connection of the caller of a command. It is made when it is
// used first.
func (p *player) service(ctx context.Context, c *Command) (Service, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := fmt.Sprintf("%s@n%d", c.Caller, c.Node)
	if s := p.services[key]; s != nil && !ended(s) {
		return s, nil
	}
	s, err := p.backend.Dial(ctx, p.callers[c.Caller], c.Node)
	if err == nil {
		p.services[key] = s
	}
	return s, err
}

// ended reports whether a connection has ended, as it does when its node is booted.
func ended(s Service) bool {
	d, ok := s.(interface{ Done() <-chan struct{} })
	if !ok {
		return false
	}
	select {
	case <-d.Done():
		return true
	default:
		return false
	}
}

func (p *player) vanish(c *Command) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := fmt.Sprintf("%s@n%d", c.Caller, c.Node)
	s := p.services[key]
	delete(p.services, key)
	err := s.Close()
	p.backend.Settle()
	return err
}

// calm waits until every daemon that runs sees its lockspaces well. A node that
// joins stops them for a moment, and the daemons look once a second.
func (p *player) calm(ctx context.Context) error {
	for node := 1; node <= p.story.Nodes; node++ {
		if !p.backend.Running(node) {
			continue
		}
		s, err := p.service(ctx, &Command{Caller: rootName, Node: node})
		if err != nil {
			return err
		}
		for {
			spaces, err := s.Lockspaces(ctx)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(spaces, func(sp client.Lockspace) bool {
				return sp.State != "ready" || sp.Stopped == nil || *sp.Stopped
			}) {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("the lockspaces of node %d: %+v", node, spaces)
			}
			time.Sleep(pollTime / 2)
		}
	}
	return nil
}

// hearing is what a caller has heard from a service.
type hearing struct {
	mu     sync.Mutex
	events []client.Event
	shown  int // how many of them have been printed
	seen   int // how many there were when heard looked
}

func (p *player) listen(c *Command, s Service) error {
	events, err := s.Watch(p.t.Context())
	if err != nil {
		return err
	}
	h := &hearing{}
	p.heard[c.Caller+fmt.Sprint(c.Node)] = h
	go func() {
		for e := range events {
			h.mu.Lock()
			h.events = append(h.events, e)
			h.mu.Unlock()
		}
	}()
	return nil
}

// printHeard prints what was heard since it was printed last.
func (p *player) printHeard(c *Command) answer {
	h := p.heard[c.Caller+fmt.Sprint(c.Node)]
	if h == nil {
		return said("has not listened")
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen = len(h.events)
	events := slices.Clone(h.events[h.shown:])
	if c.Until == nil {
		h.shown = h.seen
	}
	if kind := c.Arg(0); kind != "" {
		events = slices.DeleteFunc(events, func(e client.Event) bool { return string(e.Kind) != kind })
	}
	return func(out *Output) {
		for i := range events {
			out.event(&events[i])
		}
	}
}

// number reads what the parser has checked already.
func number(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32)
	return uint32(n)
}
