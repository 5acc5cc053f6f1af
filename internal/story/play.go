package story

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	return &Output{names: n, place: p.backend.Place(), node: c.Node, who: c.who()}
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
			if h := p.heard[c.who()]; h != nil && c.Verb == "heard" {
				h.printed(c)
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
		d, _ := time.ParseDuration(c.Arg(0)) // checked by the parser
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
		return nil, p.toNode(ctx, c, out)
	}
	return p.asCaller(ctx, c, out)
}

// toNode has the backend do something to a node, its daemon or the network. It forgets the names that such an
// event ends: a boot gives the same lockids to other locks, and a daemon without its state file the same numbers.
func (p *player) toNode(ctx context.Context, c *Command, out *Output) error {
	err := p.backend.Do(ctx, c, out)
	switch {
	case err != nil:
	case c.Verb == "crash" || c.Verb == "boot":
		p.names.booted(c.Node)
	case c.Verb == "lose-state":
		p.names.stateLost(c.Node)
	}
	return err
}

// asCaller does what a caller does over its connection to the service of a node.
func (p *player) asCaller(ctx context.Context, c *Command, out *Output) (answer, error) {
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

// service is the connection of the caller of a command. It is made when it is
// used first.
func (p *player) service(ctx context.Context, c *Command) (Service, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.services[c.who()]; s != nil && !ended(s) {
		return s, nil
	}
	s, err := p.backend.Dial(ctx, p.callers[c.Caller], c.Node)
	if err == nil {
		p.services[c.who()] = s
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
	s := p.services[c.who()]
	delete(p.services, c.who())
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

// number reads what the parser has checked already.
func number(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32)
	return uint32(n)
}
