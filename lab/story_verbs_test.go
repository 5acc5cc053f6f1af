package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/story"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/service"
	"github.com/dlmlock/dlmlockd/state"
)

// errOtherVerb says that a command is of another kind.
var errOtherVerb = errors.New("another kind of command")

// Do implements story.Backend.
func (p *place) Do(ctx context.Context, c *story.Command, out *story.Output) error {
	if c.Node == 0 {
		return p.onCluster(c, out)
	}
	n := p.rig.cluster.Node(c.Node)
	kinds := []func(context.Context, *lab.Node, *story.Command, *story.Output) error{
		p.onMachine, p.onControld, p.asProgram, p.onDaemon, p.onState, p.onProcess}
	for _, do := range kinds {
		if err := do(ctx, n, c, out); !errors.Is(err, errOtherVerb) {
			return err
		}
	}
	return fmt.Errorf("nodes have no %s", c.Verb)
}

// onCluster carries out a command about the cluster.
func (p *place) onCluster(c *story.Command, out *story.Output) error {
	switch c.Verb {
	case "partition":
		var groups [][]int
		for _, word := range c.Args {
			group, err := numbers(strings.Split(word, ","))
			if err != nil {
				return err
			}
			groups = append(groups, group)
		}
		p.rig.cluster.Partition(groups...)
	case "heal":
		p.rig.cluster.Heal()
	case "hold-fencing":
		p.rig.closeFenceGate()
	case "allow-fencing":
		p.rig.openFenceGate()
	case "fenced":
		for _, f := range p.rig.cluster.Fenced()[p.rig.fencedBefore:] {
			out.Line("node %d was powered off for another one", f.Node)
		}
	default:
		return fmt.Errorf("a cluster of nodes has no %s", c.Verb)
	}
	return nil
}

func numbers(words []string) ([]int, error) {
	all := make([]int, len(words))
	for i, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil {
			return nil, err
		}
		all[i] = n
	}
	return all, nil
}

// onMachine carries out a command about a node.
func (p *place) onMachine(ctx context.Context, n *lab.Node, c *story.Command, out *story.Output) error {
	switch c.Verb {
	case "crash":
		return n.Crash()
	case "isolate":
		n.Isolate()
		p.rig.worn = !p.rig.fencing
	case "off":
		select {
		case <-n.Gone():
			out.Say("is off")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case "boot":
		if err := p.rig.boot(p.t, n.ID); err != nil {
			return err
		}
		return p.rig.services[n.ID].Configure(ctx, p.configs[n.ID].text())
	case "members":
		ids, err := numbers(c.Args)
		if err != nil {
			return err
		}
		return n.WaitMembers(ctx, ids...)
	case "lockdown":
		p.rig.worn = true
		_, err := n.Shell(ctx, "mountpoint -q /sys/kernel/security || mount -t securityfs none /sys/kernel/security; "+
			"echo confidentiality > /sys/kernel/security/lockdown")
		return err
	case "hide-debugfs":
		p.rig.worn = true
		_, err := n.Run(ctx, "umount", "/sys/kernel/debug")
		return err
	case "set-clock":
		d, err := time.ParseDuration(c.Arg(0))
		if err != nil {
			return err
		}
		_, err = n.Shell(ctx, fmt.Sprintf(`date -s "@$(($(date +%%s) + %d))" >/dev/null`, int(d.Seconds())))
		return err
	default:
		return errOtherVerb
	}
	return nil
}

// onControld carries out a command about the DLM's daemon.
func (p *place) onControld(ctx context.Context, n *lab.Node, c *story.Command, out *story.Output) error {
	switch c.Verb {
	case "dlm-tool":
		text, err := n.Run(ctx, append([]string{"dlm_tool"}, c.Args...)...)
		_, _ = out.Write([]byte(text))
		return err
	case "stop-controld":
		return n.StopControld(ctx, c.Arg(0) == "force")
	case "start-controld":
		return n.StartControld(ctx)
	case "pause-controld":
		_, err := n.Run(ctx, "pkill", "-STOP", "-x", "dlm_controld")
		return err
	case "resume-controld":
		_, err := n.Run(ctx, "pkill", "-CONT", "-x", "dlm_controld")
		return err
	case "remove-address":
		_, err := n.Run(ctx, "rmdir", "/sys/kernel/config/dlm/cluster/comms/"+c.Arg(0))
		return err
	}
	return errOtherVerb
}

// asProgram carries out what another program does with the DLM.
func (p *place) asProgram(ctx context.Context, n *lab.Node, c *story.Command, out *story.Output) error {
	switch c.Verb {
	case "dlm-join":
		return n.JoinLockspace(ctx, c.Arg(0))
	case "dlm-leave":
		proc, err := p.peer(ctx, n)
		if err != nil {
			return err
		}
		return proc.Remove(ctx, c.Arg(0))
	case "dlm-lockspaces":
		proc, err := p.peer(ctx, n)
		if err != nil {
			return err
		}
		names, err := proc.Lockspaces(ctx)
		out.Say("in %s", strings.Join(names, ", "))
		return err
	case "leave-orphan":
		proc, ev, err := take(ctx, n, c, dlm.NoQueue|dlm.Persistent)
		if err != nil {
			return err
		}
		proc.close()
		if !ev.Status.OK() {
			return fmt.Errorf("the orphan to be: %v", ev.Status)
		}
		out.Say("orphan lkid=%s", out.NewOrphan(uint32(ev.LockID)))
	case "hold":
		proc, ev, err := take(ctx, n, c, dlm.NoQueue)
		if err != nil {
			return err
		}
		if !ev.Status.OK() {
			proc.close()
			out.Say("refused, %v", ev.Status)
			return nil
		}
		p.holders[n.ID] = proc
		out.Say("has it")
	case "end-hold":
		p.holders[n.ID].close()
		delete(p.holders, n.ID)
	default:
		return errOtherVerb
	}
	return nil
}

// take asks for a lock in a process of its own, which uses libdlm by itself.
func take(ctx context.Context, n *lab.Node, c *story.Command, flags dlm.Flags) (*peerProcess, dlm.Event, error) {
	mode, err := dlm.ParseMode(c.Arg(1))
	if err != nil {
		return nil, dlm.Event{}, err
	}
	proc, err := startPeer(ctx, n)
	if err != nil {
		return nil, dlm.Event{}, err
	}
	lockspace, resource := c.Resource(0)
	events := make(chan dlm.Event, 8)
	space, err := proc.Open(ctx, lockspace, func(ev dlm.Event) { events <- ev })
	if err != nil {
		proc.close()
		return nil, dlm.Event{}, err
	}
	space.Lock(1, resource, mode, flags)
	select {
	case ev := <-events:
		return proc, ev, nil
	case <-ctx.Done():
		proc.close()
		return nil, dlm.Event{}, context.Cause(ctx)
	}
}

// peer is a process of the story's own on a node.
func (p *place) peer(ctx context.Context, n *lab.Node) (*peerProcess, error) {
	if proc := p.peers[n.ID]; proc != nil && !proc.ended() {
		return proc, nil
	}
	proc, err := startPeer(ctx, n)
	if err == nil {
		p.peers[n.ID] = proc
	}
	return proc, err
}

// onDaemon carries out a command about the daemon of a node.
func (p *place) onDaemon(ctx context.Context, n *lab.Node, c *story.Command, out *story.Output) error {
	d := p.rig.services[n.ID]
	switch c.Verb {
	case "configure":
		return p.configure(ctx, c)
	case "start-daemon":
		return d.Start(ctx)
	case "kill-daemon":
		return d.Kill(ctx)
	case "stop-daemon":
		return d.Stop(ctx)
	case "pause-daemon":
		_, err := n.Run(ctx, "kill", "-STOP", strconv.Itoa(d.PID()))
		return err
	case "resume-daemon":
		_, err := n.Run(ctx, "kill", "-CONT", strconv.Itoa(d.PID()))
		return err
	case "log":
		text, err := p.daemonLog(n)
		_, _ = out.Write([]byte(text))
		return err
	case "requests":
		return p.requests(ctx, c)
	case "end-requests":
		err := p.crowds[n.ID].Close()
		delete(p.crowds, n.ID)
		return err
	case "threads":
		text, err := n.Shell(ctx, fmt.Sprintf("ls /proc/%d/task | wc -l", d.PID()))
		if err != nil {
			return err
		}
		count, _ := strconv.Atoi(strings.TrimSpace(text))
		most, err := strconv.Atoi(c.Arg(0))
		out.Say("at most %d threads: %v", most, count > 0 && count <= most)
		p.t.Logf("the daemon of node %d has %d threads", n.ID, count)
		return err
	}
	return errOtherVerb
}

// requests makes many Requests that wait. They end with their connection.
func (p *place) requests(ctx context.Context, c *story.Command) error {
	conn, err := p.rig.services[c.Node].Dial(ctx)
	if err != nil {
		return err
	}
	p.crowds[c.Node] = conn
	count, err := strconv.Atoi(c.Arg(0))
	lockspace, resource := c.Resource(1)
	object := conn.Conn().Object(client.Name, client.Path)
	for i := 0; i < count && err == nil; i++ {
		err = object.CallWithContext(ctx, client.Name+".Request", 0, lockspace, resource, c.Arg(2),
			map[string]godbus.Variant{}).Err
	}
	return err
}

// onState carries out a command about the state file of a node.
func (p *place) onState(ctx context.Context, n *lab.Node, c *story.Command, out *story.Output) error {
	switch c.Verb {
	case "state":
		text, err := n.Get(ctx, service.StateFile)
		if errors.Is(err, fs.ErrNotExist) {
			out.Say("no state file")
			return nil
		} else if err != nil {
			return err
		}
		boot, err := n.Get(ctx, "/proc/sys/kernel/random/boot_id")
		if err != nil {
			return err
		}
		return out.State(p.t.TempDir(), text, state.Header{BootID: strings.TrimSpace(string(boot)), NodeID: uint32(n.ID),
			Cluster: lab.ClusterName, Engine: "dlm"})
	case "save-state":
		text, err := n.Get(ctx, service.StateFile)
		p.saved[n.ID] = text
		return err
	case "lose-state":
		_, err := n.Run(ctx, "rm", "-rf", service.StateDir)
		return err
	case "put-state":
		if _, err := n.Run(ctx, "mkdir", "-m", "700", service.StateDir); err != nil {
			return err
		}
		return n.Put(ctx, service.StateFile, 0o600, p.saved[n.ID])
	}
	return errOtherVerb
}

// onProcess carries out a command about a process that does nothing.
func (p *place) onProcess(ctx context.Context, n *lab.Node, c *story.Command, _ *story.Output) error {
	key := fmt.Sprintf("%d/%s", n.ID, c.Arg(0))
	switch c.Verb {
	case "process":
		if c.Options["pid-of"] != "" {
			return errors.New("no pid can be given to a process on a node")
		}
		uid := c.Options["uid"]
		if uid == "" {
			uid = "0"
		}
		text, err := n.Shell(ctx, "setpriv --reuid="+uid+" --clear-groups sleep 100000 >/dev/null 2>&1 & echo $!")
		if err != nil {
			return err
		}
		pid, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.pids[key] = uint32(pid)
		return err
	case "end-process":
		pid, _, ok := p.Process(n.ID, c.Arg(0))
		if !ok {
			return fmt.Errorf("no process is called %s", c.Arg(0))
		}
		_, err := n.Run(ctx, "kill", "-KILL", strconv.FormatUint(uint64(pid), 10))
		return err
	}
	return errOtherVerb
}
