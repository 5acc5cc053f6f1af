package lab_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/lan"
	"github.com/dlmlock/dlmlockd/lab/logbook"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// A fault happens to one node while clients on all nodes work. It is over when
// do returns: the node is up, and its service answers.
type fault struct {
	name   string
	weight int
	do     func(*soak, context.Context, *lab.Node) error
}

// soakFaults has all faults. Those after which a node boots take most of the time.
var soakFaults = []fault{
	{"daemon killed", 30, (*soak).killDaemon},
	{"daemon stopped and started", 6, (*soak).restartDaemon},
	{"daemon paused", 8, (*soak).pauseDaemon},
	{"dlm_controld paused", 5, (*soak).pauseControld},
	{"clients cut off", 8, (*soak).cutClients},
	{"clients killed", 10, (*soak).killClients},
	{"clients paused", 6, (*soak).pauseClients},
	{"message bus killed", 5, (*soak).killBus},
	{"daemon exchanged", 6, (*soak).exchange},
	{"network slow", 8, (*soak).slowNetwork},
	{"network lossy", 5, (*soak).lossyNetwork},
	{"network out of order", 5, (*soak).unorderedNetwork},
	{"clock set", 5, (*soak).setClock},
	{"clock slow or fast", 4, (*soak).drift},
	{"state directory full", 4, (*soak).fullDisk},
	{"state directory read-only", 3, (*soak).readOnly},
	{"state file removed", 3, (*soak).removeState},
	{"lockspace left and joined", 4, (*soak).leave},
	{"node paused for a moment", 4, (*soak).pauseNode},
	{"node powered off", 3, (*soak).powerOff},
	{"node cut off and fenced", 3, (*soak).cutOff},
	{"node paused and fenced", 2, (*soak).suspend},
}

// chosenFaults returns the faults that SOAK_FAULTS names, separated by commas, or all. With
// "none" there are no faults.
func chosenFaults(t *testing.T, exchange bool) (out []fault) {
	names := strings.Split(os.Getenv("SOAK_FAULTS"), ",")
	for _, f := range soakFaults {
		if slices.Contains(names, f.name) || names[0] == "" && (exchange || f.name != "daemon exchanged") {
			out = append(out, f)
		}
	}
	require.True(t, len(out) > 0 || names[0] == "none", "SOAK_FAULTS: there are no faults %q", names)
	return out
}

func (s *soak) pick() fault {
	total := 0
	for _, f := range s.faults {
		total += f.weight
	}
	at := s.rand.IntN(total)
	for _, f := range s.faults {
		if at -= f.weight; at < 0 {
			return f
		}
	}
	panic("weights")
}

// seconds returns a random time; shorter times are more likely.
func (s *soak) seconds(most float64) time.Duration {
	f := s.rand.Float64()
	return time.Duration(f * f * most * float64(time.Second))
}

// start starts the daemon of a node. It logs only warnings, because the log goes through the
// port of the node, which costs as much as the calls do; SOAK_LOG=info changes that.
func (s *soak) start(ctx context.Context, n *lab.Node) error {
	return s.rig.services[n.ID].Start(ctx, "--varlink="+client.VarlinkSocket, "--virtlockd=/run/libvirt/virtlockd-sock",
		"--log-level="+cmp.Or(os.Getenv("SOAK_LOG"), "warn"))
}

func (s *soak) killDaemon(ctx context.Context, n *lab.Node) error {
	defer s.logbook.Mark(n.ID, logbook.Daemon)()
	if err := s.rig.services[n.ID].Kill(ctx); err != nil {
		return err
	}
	pause(ctx, s.seconds(3))
	return s.start(ctx, n)
}

func (s *soak) restartDaemon(ctx context.Context, n *lab.Node) error {
	defer s.logbook.Mark(n.ID, logbook.Daemon)()
	if err := s.rig.services[n.ID].Stop(ctx); err != nil {
		return err
	}
	return s.start(ctx, n)
}

// exchange upgrades the daemon of a node to the other build, or back.
func (s *soak) exchange(ctx context.Context, n *lab.Node) error {
	defer s.logbook.Mark(n.ID, logbook.Daemon)()
	if err := s.rig.services[n.ID].Stop(ctx); err != nil {
		return err
	}
	program := s.other
	if s.runsOther[n.ID] {
		program = s.rig.programs.daemon
	}
	if err := n.Push(ctx, program, service.Program); err != nil {
		return err
	}
	s.runsOther[n.ID] = !s.runsOther[n.ID]
	return s.start(ctx, n)
}

// killBus kills the message bus of a node and starts another one. The daemon ends with the
// bus, as do the connections of clients.
func (s *soak) killBus(ctx context.Context, n *lab.Node) error {
	defer s.logbook.Mark(n.ID, logbook.Bus)()
	defer s.logbook.Mark(n.ID, logbook.Daemon)()
	if _, err := n.Shell(ctx, "pkill -KILL -x dbus-daemon"); err != nil {
		return err
	}
	for s.rig.services[n.ID].Running() && ctx.Err() == nil {
		pause(ctx, 50*time.Millisecond)
	}
	pause(ctx, s.seconds(3))
	if err := n.StartBus(ctx); err != nil {
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

// cutClients ends connections of clients, even in the middle of a call.
func (s *soak) cutClients(context.Context, *lab.Node) error {
	s.eachPage(func(_ int, p *logbook.Page) {
		if s.rand.IntN(2) == 0 {
			p.Cut()
		}
	})
	return nil
}

// links sets the links of a node in both directions for a while. The token timeout of the
// cluster is longer than the delay that this causes.
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

// unorderedNetwork makes frames overtake each other, as if they took several paths.
func (s *soak) unorderedNetwork(ctx context.Context, n *lab.Node) error {
	return s.links(ctx, n, lan.Link{Jitter: time.Duration(5+s.rand.IntN(50)) * time.Millisecond})
}

func (s *soak) setClock(ctx context.Context, n *lab.Node) error {
	steps := []int{-3600, 3600, 86400, -60, 60}
	_, err := n.Shell(ctx, fmt.Sprintf(`date -s "@$(($(date +%%s) + %d))" >/dev/null`, steps[s.rand.IntN(len(steps))]))
	return err
}

// drift makes the clock of a node too fast or too slow by up to a tenth for a while.
func (s *soak) drift(ctx context.Context, n *lab.Node) error {
	const right = 10000
	for _, tick := range []int{right - 1000 + s.rand.IntN(2001), right} {
		if _, err := n.Run(ctx, soakerPath, "-drift", strconv.Itoa(tick)); err != nil {
			return err
		}
		if tick != right {
			pause(ctx, s.seconds(20))
		}
	}
	return nil
}

func (s *soak) fullDisk(ctx context.Context, n *lab.Node) error {
	if _, err := n.Shell(ctx, "dd if=/dev/zero of="+soakFill+" bs=64k 2>/dev/null; true"); err != nil {
		return err
	}
	pause(ctx, s.seconds(6))
	_, err := n.Shell(ctx, "rm -f "+soakFill)
	return err
}

// readOnly starts the daemon in a state directory that can't be written. The daemon must
// not run when the file system becomes read-only, because the kernel refuses that while a
// file is open for writing.
func (s *soak) readOnly(ctx context.Context, n *lab.Node) error {
	defer s.logbook.Mark(n.ID, logbook.Daemon)()
	daemon := s.rig.services[n.ID]
	if err := daemon.Kill(ctx); err != nil {
		return err
	}
	if _, err := n.Shell(ctx, "mount -o remount,ro "+soakState); err != nil {
		return err
	}
	if err := daemon.Launch(ctx); err != nil {
		return err
	}
	pause(ctx, s.seconds(5))
	if err := daemon.Kill(ctx); err != nil && daemon.Running() {
		return err
	}
	if _, err := n.Shell(ctx, "mount -o remount,rw "+soakState); err != nil {
		return err
	}
	return s.start(ctx, n)
}

// removeState removes the state file under the daemon, which writes another one.
func (s *soak) removeState(ctx context.Context, n *lab.Node) error {
	_, err := n.Shell(ctx, "rm -rf "+soakState+"/*; until [ -s "+service.StateFile+" ]; do sleep 0.1; done")
	return err
}

// leave makes the node leave the lockspace by force, with all locks that its
// clients have, and join it again.
func (s *soak) leave(ctx context.Context, n *lab.Node) error {
	bus, err := s.rig.services[n.ID].Dial(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	return s.paused(ctx, n, func() error {
		at := s.logbook.Now()
		if err := bus.Leave(ctx, soakSpace, true); err != nil {
			return fmt.Errorf("leave: %w", err)
		}
		s.died(n, at, true)
		if err := bus.Join(ctx, soakSpace); err != nil {
			return fmt.Errorf("join: %w", err)
		}
		return nil
	})
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
	at, before := s.logbook.Now(), len(s.rig.cluster.Fenced())
	if err := n.Crash(); err != nil {
		return err
	}
	// If the node is up again before the others have fenced it, it goes off once more.
	for len(s.rig.cluster.Fenced()) == before && ctx.Err() == nil {
		pause(ctx, 100*time.Millisecond)
	}
	return s.bootAgain(ctx, n, at)
}

// cutOff cuts a node off, with clients at work on it, until the others have fenced it.
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
	limit := time.After(untilTime)
	for {
		at := s.logbook.Now() // not later than its end
		select {
		case <-n.Gone():
			return s.bootAgain(ctx, n, at)
		case <-limit:
			return errors.New("nobody fenced the node")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// bootAgain starts a node that went off at that time.
func (s *soak) bootAgain(ctx context.Context, n *lab.Node, at uint64) error {
	s.died(n, at, false)
	s.rig.cluster.Heal()
	if err := s.rig.boot(s.t, n.ID); err != nil {
		return err
	}
	if err := s.prepare(ctx, n); err != nil {
		return err
	}
	if err := s.start(ctx, n); err != nil {
		return err
	}
	s.buried(n)
	return s.startClients(ctx, n)
}
