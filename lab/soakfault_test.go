package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/lan"
)

// A fault happens to one node while clients on all nodes work. It is over when
// do returns: the node is up, and its service answers.
type fault struct {
	name   string
	weight int
	do     func(*soak, context.Context, *lab.Node) error
}

// soakFaults: those after which a node boots take most of the time.
var soakFaults = []fault{
	{"daemon killed", 30, (*soak).killDaemon},
	{"daemon stopped and started", 6, (*soak).restartDaemon},
	{"daemon paused", 8, (*soak).pauseDaemon},
	{"dlm_controld paused", 5, (*soak).pauseControld},
	{"clients cut off", 8, (*soak).cutClients},
	{"network slow", 8, (*soak).slowNetwork},
	{"network lossy", 5, (*soak).lossyNetwork},
	{"clock set", 5, (*soak).setClock},
	{"state directory full", 4, (*soak).fullDisk},
	{"lockspace left and joined", 4, (*soak).leave},
	{"node paused for a moment", 4, (*soak).pauseNode},
	{"node powered off", 3, (*soak).powerOff},
	{"node cut off and fenced", 3, (*soak).cutOff},
	{"node paused and fenced", 2, (*soak).suspend},
}

func (s *soak) pick() fault {
	total := 0
	for _, f := range soakFaults {
		total += f.weight
	}
	at := s.rand.IntN(total)
	for _, f := range soakFaults {
		if at -= f.weight; at < 0 {
			return f
		}
	}
	panic("weights")
}

// seconds is a random time, the shorter the likelier.
func (s *soak) seconds(most float64) time.Duration {
	f := s.rand.Float64()
	return time.Duration(f * f * most * float64(time.Second))
}

func (s *soak) start(ctx context.Context, n *lab.Node) error { return s.rig.services[n.ID].Start(ctx) }

func (s *soak) killDaemon(ctx context.Context, n *lab.Node) error {
	if err := s.rig.services[n.ID].Kill(ctx); err != nil {
		return err
	}
	pause(ctx, s.seconds(3))
	return s.start(ctx, n)
}

func (s *soak) restartDaemon(ctx context.Context, n *lab.Node) error {
	if err := s.rig.services[n.ID].Stop(ctx); err != nil {
		return err
	}
	return s.start(ctx, n)
}

// stopped stops a process for a while.
func (s *soak) stopped(ctx context.Context, n *lab.Node, kill string) error {
	if _, err := n.Shell(ctx, fmt.Sprintf(kill, "STOP")); err != nil {
		return err
	}
	pause(ctx, s.seconds(8))
	_, err := n.Shell(ctx, fmt.Sprintf(kill, "CONT"))
	return err
}

func (s *soak) pauseDaemon(ctx context.Context, n *lab.Node) error {
	return s.stopped(ctx, n, "kill -%s "+strconv.Itoa(s.rig.services[n.ID].PID()))
}

func (s *soak) pauseControld(ctx context.Context, n *lab.Node) error {
	return s.stopped(ctx, n, "pkill -%s -x dlm_controld")
}

// cutClients ends the connections of a node's clients in the middle of a call.
func (s *soak) cutClients(context.Context, *lab.Node) error {
	for _, c := range s.clients {
		if bus := c.bus.Load(); bus != nil && s.rand.IntN(2) == 0 {
			_ = bus.Close()
		}
	}
	return nil
}

// links sets the links of a node in both directions for a while. The token
// timeout of the cluster is longer than what that costs.
func (s *soak) links(ctx context.Context, n *lab.Node, l lan.Link) error {
	for _, o := range s.rig.cluster.Nodes() {
		if o != n {
			s.rig.cluster.Net.SetLink(n.ID, o.ID, l)
			s.rig.cluster.Net.SetLink(o.ID, n.ID, l)
		}
	}
	pause(ctx, s.seconds(10))
	s.rig.cluster.Heal()
	return nil
}

func (s *soak) slowNetwork(ctx context.Context, n *lab.Node) error {
	return s.links(ctx, n, lan.Link{Delay: time.Duration(20+s.rand.IntN(200)) * time.Millisecond})
}

func (s *soak) lossyNetwork(ctx context.Context, n *lab.Node) error {
	return s.links(ctx, n, lan.Link{Drop: 0.02 + 0.08*s.rand.Float64()})
}

func (s *soak) setClock(ctx context.Context, n *lab.Node) error {
	steps := []int{-3600, 3600, 86400, -60, 60}
	_, err := n.Shell(ctx, fmt.Sprintf(`date -s "@$(($(date +%%s) + %d))" >/dev/null`, steps[s.rand.IntN(len(steps))]))
	return err
}

func (s *soak) fullDisk(ctx context.Context, n *lab.Node) error {
	if _, err := n.Shell(ctx, "dd if=/dev/zero of="+soakFill+" bs=64k 2>/dev/null; true"); err != nil {
		return err
	}
	pause(ctx, s.seconds(6))
	_, err := n.Shell(ctx, "rm -f "+soakFill)
	return err
}

// leave makes the node leave the lockspace by force, with all locks that its
// clients have, and join it again.
func (s *soak) leave(ctx context.Context, n *lab.Node) error {
	s.gates[n.ID].Lock()
	defer s.gates[n.ID].Unlock()
	bus, err := s.rig.services[n.ID].Dial(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	at := s.history.now()
	if err := bus.Leave(ctx, soakSpace, true); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	s.died(n, at, true)
	if err := bus.Join(ctx, soakSpace); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	return nil
}

// pauseNode stops the machine for less than the cluster notices.
func (s *soak) pauseNode(ctx context.Context, n *lab.Node) error {
	if err := n.Pause(); err != nil {
		return err
	}
	pause(ctx, s.seconds(2))
	return n.Resume()
}

func (s *soak) powerOff(ctx context.Context, n *lab.Node) error {
	at, before := s.history.now(), len(s.rig.cluster.Fenced())
	if err := n.Crash(); err != nil {
		return err
	}
	// A node that is up again before the others have it fenced goes off once more.
	for len(s.rig.cluster.Fenced()) == before && ctx.Err() == nil {
		pause(ctx, 100*time.Millisecond)
	}
	return s.bootAgain(ctx, n, at)
}

// cutOff cuts a node off, with clients at work on it, until the others have it
// powered off.
func (s *soak) cutOff(ctx context.Context, n *lab.Node) error {
	n.Isolate()
	return s.awaitFence(ctx, n)
}

// suspend stops the machine for longer than the cluster waits: the classical way
// to two holders, if the others went on without fencing it.
func (s *soak) suspend(ctx context.Context, n *lab.Node) error {
	if err := n.Pause(); err != nil {
		return err
	}
	return s.awaitFence(ctx, n)
}

func (s *soak) awaitFence(ctx context.Context, n *lab.Node) error {
	select {
	case <-n.Gone():
	case <-time.After(untilTime):
		return errors.New("nobody fenced the node")
	}
	return s.bootAgain(ctx, n, s.history.now())
}

// bootAgain starts a node that went off at that time.
func (s *soak) bootAgain(ctx context.Context, n *lab.Node, at int64) error {
	s.gates[n.ID].Lock()
	s.died(n, at, false)
	s.gates[n.ID].Unlock()
	s.rig.cluster.Heal()
	if err := s.rig.boot(s.t, n.ID); err != nil {
		return err
	}
	if err := s.prepare(ctx, n); err != nil {
		return err
	}
	return s.start(ctx, n)
}

// died notes the end of all locks of a node's clients. The caller has its gate.
func (s *soak) died(n *lab.Node, at int64, kept bool) {
	for _, c := range s.clients {
		if c.node == n.ID {
			c.died(at)
			c.lost = kept
		}
	}
}
