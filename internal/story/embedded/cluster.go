// Package embedded plays stories in this process: the service with the embedded
// engine on simulated nodes, and a state file for each of them.
//
// It owns the simulated nodes and what can be done to them. It refuses to know
// how a story is written and how what happens is printed: that is package story.
//
// Concurrency: a story is played in a bubble of testing/synctest, so its clock
// stands still except while everything waits. The goroutine that plays the story
// alone uses a Cluster; jobs use services from their own goroutines.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/story"
)

// Play plays a story in a bubble of its own.
func Play(t *testing.T, s *story.Story, update bool) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, s.Nodes)
		defer c.close()
		story.Play(t, s, c, update)
	})
}

// cluster is the place of one story: it implements story.Backend.
type cluster struct {
	t     *testing.T
	sim   *local.Cluster
	nodes []*node
}

var _ story.Backend = (*cluster)(nil)

func newCluster(t *testing.T, nodes int) *cluster {
	c := &cluster{t: t, sim: local.NewCluster("test")}
	for i := range nodes {
		c.nodes = append(c.nodes, newNode(t, c.sim, i+1))
	}
	return c
}

func (c *cluster) close() {
	for _, n := range c.nodes {
		if d := n.current(); d != nil {
			d.stop()
		}
	}
}

func (c *cluster) node(id int) *node { return c.nodes[id-1] }

// Place implements story.Backend.
func (c *cluster) Place() story.Place { return story.Embedded }

// Running implements story.Backend.
func (c *cluster) Running(id int) bool { return c.node(id).current() != nil }

// tick is how long a command takes at least: fencing tokens are made from the
// clock, and two that are made in the same instant would be the same.
const tick = 10 * time.Microsecond

// Settle implements story.Backend: all goroutines wait for something.
func (c *cluster) Settle() {
	time.Sleep(tick)
	synctest.Wait()
}

// Process implements story.Backend.
func (c *cluster) Process(id int, name string) (pid uint32, start uint64, ok bool) {
	p, ok := c.node(id).procs.named[name]
	return p.PID, 0, ok
}

// Do implements story.Backend.
func (c *cluster) Do(ctx context.Context, cmd *story.Command, out *story.Output) error {
	switch cmd.Verb {
	case "stop-lockspace":
		c.sim.Stop(cmd.Arg(0), strings.Join(cmd.Args[1:], " "))
		return nil
	case "resume-lockspace":
		c.sim.Resume(cmd.Arg(0))
		return nil
	case "quorum":
		c.sim.SetQuorate(cmd.Arg(0) == "yes")
		return nil
	case "members":
		return c.members(cmd)
	}
	n := c.node(cmd.Node)
	for _, do := range []command{n.machine, n.program, n.daemonDo, n.ask} {
		if err := do(ctx, cmd, out); !errors.Is(err, errOther) {
			return err
		}
	}
	return fmt.Errorf("the embedded engine has no %s", cmd.Verb)
}

// command carries out a command, or returns errOther.
type command func(context.Context, *story.Command, *story.Output) error

// errOther says that a verb is of another kind.
var errOther = errors.New("another kind of command")

// members checks which nodes are up: in the simulation all that are up see each
// other.
func (c *cluster) members(cmd *story.Command) error {
	var up []string
	for _, n := range c.nodes {
		if n.up {
			up = append(up, fmt.Sprint(n.id))
		}
	}
	if strings.Join(up, " ") != strings.Join(cmd.Args, " ") {
		return fmt.Errorf("nodes %v are up", up)
	}
	return nil
}

// program carries out what another program of a node does.
func (n *node) program(ctx context.Context, cmd *story.Command, out *story.Output) error {
	switch cmd.Verb {
	case "dlm-join":
		e := n.sim.Engine()
		defer e.Close() // the node stays a member
		_, err := e.Create(ctx, cmd.Arg(0), func(dlm.Event) {})
		return err
	case "dlm-leave":
		return n.sim.Engine().Remove(ctx, cmd.Arg(0))
	case "dlm-lockspaces":
		names, err := n.sim.Engine().Lockspaces(ctx)
		out.Say("in %s", strings.Join(names, ", "))
		return err
	case "dlm-unlock":
		id, err := out.LockID(cmd.Arg(1))
		if err == nil && !n.sim.Unlock(cmd.Arg(0), dlm.LockID(id)) {
			err = fmt.Errorf("no lock is granted under lockid %d", id)
		}
		return err
	case "leave-orphan":
		return n.leaveOrphan(ctx, cmd, out)
	case "hold":
		return n.hold(ctx, cmd, out)
	case "end-hold":
		n.holder.Kill()
		n.holder = nil
	default:
		return errOther
	}
	return nil
}

// leaveOrphan has a process take a persistent lock and end.
func (n *node) leaveOrphan(ctx context.Context, cmd *story.Command, out *story.Output) error {
	e, ev, err := n.take(ctx, cmd, dlm.NoQueue|dlm.Persistent)
	if err != nil {
		return err
	}
	e.Kill()
	if !ev.Status.OK() {
		return fmt.Errorf("the orphan to be: %v", ev.Status)
	}
	out.Say("orphan lkid=%s", out.NewOrphan(uint32(ev.LockID)))
	return nil
}

// hold has a process take a lock and keep it until end-hold.
func (n *node) hold(ctx context.Context, cmd *story.Command, out *story.Output) error {
	e, ev, err := n.take(ctx, cmd, dlm.NoQueue)
	if err != nil {
		return err
	}
	if !ev.Status.OK() {
		e.Kill()
		out.Say("refused, %v", ev.Status)
		return nil
	}
	n.holder = e
	out.Say("has it")
	return nil
}

// take asks for a lock in a process of its own.
func (n *node) take(ctx context.Context, cmd *story.Command, flags dlm.Flags) (*local.Engine, dlm.Event, error) {
	mode, err := dlm.ParseMode(cmd.Arg(1))
	if err != nil {
		return nil, dlm.Event{}, err
	}
	e := n.sim.Engine()
	events := make(chan dlm.Event, 8)
	lockspace, resource := cmd.Resource(0)
	space, err := e.Open(ctx, lockspace, func(ev dlm.Event) { events <- ev })
	if err != nil {
		return nil, dlm.Event{}, err
	}
	space.Lock(1, resource, mode, flags)
	select {
	case ev := <-events:
		return e, ev, nil
	case <-ctx.Done():
		return nil, dlm.Event{}, context.Cause(ctx)
	}
}
