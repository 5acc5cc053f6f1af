package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// options are the key=value words of a command.
type options map[string]string

func split(words []string) (plain []string, opts options) {
	opts = options{}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			opts[k] = v
		} else {
			plain = append(plain, w)
		}
	}
	return plain, opts
}

func (o options) wait() time.Duration {
	d, _ := time.ParseDuration(o["wait"])
	return d
}

// value is what to write into the value block.
func (o options) value() []byte {
	if text, ok := o["value"]; ok {
		return []byte(text)
	}
	return nil
}

// tokensOf is the node whose tokens a token is compared with; 0 is all of them,
// which must not be asked for where the clocks alone make the tokens grow.
func (o options) tokensOf(node int) int {
	if o["tokens"] == "all" {
		return 0
	}
	return node
}

// acquireAll takes several locks at once and lets go of them, ROUNDS times.
func (s *story) acquireAll(ctx context.Context, c *client.Client, p []string) (rounds int, err error) {
	want := make([]client.Want, len(p)-1)
	for i, name := range p[1:] {
		lockspace, resource := place(name)
		want[i] = client.Want{Lockspace: lockspace, Resource: resource, Mode: "EX"}
	}
	most, err := strconv.Atoi(p[0])
	for ; rounds < most && err == nil; rounds++ {
		if _, err = c.AcquireMany(ctx, want, client.Options{Owner: "all", Wait: client.MaxWait}); err == nil {
			_, err = c.ReleaseOwner(ctx, "", "all")
		}
	}
	return rounds, err
}

// requests makes many Requests that wait. They end with their connection.
func (s *story) requests(ctx context.Context, id int, p []string) error {
	c, err := s.rig.services[id].Dial(ctx)
	if err != nil {
		return err
	}
	s.crowds[id] = c
	n, err := strconv.Atoi(p[0])
	lockspace, resource := place(p[1])
	service := c.Conn().Object(client.Name, client.Path)
	for i := 0; i < n && err == nil; i++ {
		err = service.CallWithContext(ctx, client.Name+".Request", 0, lockspace, resource, p[2], map[string]godbus.Variant{}).Err
	}
	return err
}

func place(word string) (lockspace, resource string) {
	lockspace, resource, _ = strings.Cut(word, "/")
	return lockspace, resource
}

// prepare finds what a command does; doing it prints to out.
func (s *story) prepare(words []string) func(context.Context, *bytes.Buffer) {
	if node, ok := strings.CutPrefix(words[0], "n"); ok {
		if id, err := strconv.Atoi(node); err == nil {
			plain, opts := split(words[2:])
			return func(ctx context.Context, out *bytes.Buffer) { s.onNode(ctx, out, id, words[1], plain, opts) }
		}
	}
	return func(ctx context.Context, out *bytes.Buffer) { s.onCluster(ctx, out, words[0], words[1:]) }
}

// onCluster carries out a command about the cluster.
func (s *story) onCluster(ctx context.Context, out *bytes.Buffer, verb string, words []string) {
	switch verb {
	case "partition": // 1,2 3
		var groups [][]int
		for _, w := range words {
			var group []int
			for _, id := range strings.Split(w, ",") {
				n, err := strconv.Atoi(id)
				require.NoError(s.t, err)
				group = append(group, n)
			}
			groups = append(groups, group)
		}
		s.rig.cluster.Partition(groups...)
	case "heal":
		s.rig.cluster.Heal()
	case "hold-fencing": // until allow-fencing no node is powered off for another
		s.rig.closeFenceGate()
	case "allow-fencing":
		s.rig.openFenceGate()
	case "calm": // wait until no daemon thinks that a lockspace is stopped
		s.calm(ctx)
	case "fenced": // which nodes were, in order
		for _, f := range s.rig.cluster.Fenced()[s.rig.fencedBefore:] {
			fmt.Fprintf(out, "node %d was powered off for another one\n", f.Node)
		}
	default:
		s.t.Errorf("no such command: %s", verb)
	}
}

// calm waits until every daemon that runs sees its lockspaces well. A node that
// joins stops them for a moment, and the daemons look once a second.
func (s *story) calm(ctx context.Context) {
	for id, d := range s.rig.services {
		if !d.Running() {
			continue
		}
		c, err := s.client(ctx, id)
		require.NoError(s.t, err)
		require.Eventually(s.t, func() bool {
			spaces, err := c.Lockspaces(ctx)
			require.NoError(s.t, err)
			return !slices.ContainsFunc(spaces, func(sp client.Lockspace) bool {
				return sp.State != "ready" || sp.Stopped == nil || *sp.Stopped
			})
		}, commandTime, 50*time.Millisecond, "the lockspaces of node %d", id)
	}
}

// onNode carries out a command on a node. An error is printed.
func (s *story) onNode(ctx context.Context, out *bytes.Buffer, id int, verb string, p []string, o options) {
	err := s.onMachine(ctx, out, id, verb, p)
	if errors.Is(err, errOtherVerb) {
		err = s.onDaemon(ctx, out, id, verb, p)
	}
	if errors.Is(err, errOtherVerb) {
		c, dialErr := s.client(ctx, id)
		if err = dialErr; err == nil {
			err = s.call(ctx, out, c, id, verb, p, o)
		}
	}
	if errors.Is(err, errOtherVerb) {
		s.t.Errorf("no such command: %s", verb)
		return
	}
	if err == nil {
		return
	}
	var e *client.Error
	if errors.As(err, &e) && e.Kind != client.Failed {
		fmt.Fprintf(out, "n%d: %s: %s\n", id, e.Kind, e.Message)
		return
	}
	fmt.Fprintf(out, "n%d: failed: %v\n", id, err)
	s.t.Errorf("n%d %s %v: %v", id, verb, p, err)
}

var errOtherVerb = errors.New("another kind of command")

// onMachine are commands about a node and its cluster software.
func (s *story) onMachine(ctx context.Context, out *bytes.Buffer, id int, verb string, p []string) error {
	n := s.rig.cluster.Node(id)
	switch verb {
	case "crash": // pull the plug
		return n.Crash()
	case "isolate":
		n.Isolate()
		s.rig.split = !s.rig.fencing
	case "off": // wait until it is
		select {
		case <-n.Gone():
			fmt.Fprintf(out, "n%d is off\n", id)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	case "boot": // and join the cluster again
		s.forget(id)
		return s.rig.boot(s.t, id)
	case "members": // ID... : wait until corosync has exactly these
		var ids []int
		for _, w := range p {
			m, err := strconv.Atoi(w)
			require.NoError(s.t, err)
			ids = append(ids, m)
		}
		return n.WaitMembers(ctx, ids...)
	case "dlm-join": // LOCKSPACE, with dlm_tool
		return n.JoinLockspace(ctx, p[0])
	case "dlm-tool": // ARG...
		text, err := n.Run(ctx, append([]string{"dlm_tool"}, p...)...)
		out.WriteString(text)
		return err
	case "dlm-leave": // LOCKSPACE, as another program would
		s.forget(id)
		return s.peer(ctx, id).Remove(ctx, p[0])
	case "stop-controld": // [force]
		return n.StopControld(ctx, len(p) > 0)
	case "start-controld":
		return n.StartControld(ctx)
	case "pause-controld", "resume-controld":
		sig := map[string]string{"pause-controld": "-STOP", "resume-controld": "-CONT"}[verb]
		_, err := n.Run(ctx, "pkill", sig, "-x", "dlm_controld")
		return err
	case "lockdown": // for good, as a kernel started with Secure Boot is
		_, err := n.Shell(ctx, "mountpoint -q /sys/kernel/security || mount -t securityfs none /sys/kernel/security; echo confidentiality > /sys/kernel/security/lockdown")
		return err
	case "hide-debugfs":
		_, err := n.Run(ctx, "umount", "/sys/kernel/debug")
		return err
	case "process": // NAME : one that does nothing
		text, err := n.Run(ctx, "sh", "-c", "sleep 100000 >/dev/null 2>&1 & echo $!")
		if err != nil {
			return err
		}
		pid, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
		s.pids[p[0]] = uint32(pid)
		return err
	case "end-process": // NAME
		_, err := n.Run(ctx, "kill", "-KILL", strconv.FormatUint(uint64(s.pids[p[0]]), 10))
		return err
	case "set-clock": // +SECONDS or -SECONDS : the wall clock, by so much
		_, err := n.Run(ctx, "sh", "-c", "date -s \"@$(($(date +%s) "+p[0]+"))\" >/dev/null")
		return err
	case "sleep": // SECONDS, on that node's clock
		_, err := n.Run(ctx, "sleep", p[0])
		return err
	case "leave-orphan": // LOCKSPACE/RESOURCE MODE : of a process that is killed
		return s.leaveOrphan(ctx, out, id, p)
	case "hold": // LOCKSPACE/RESOURCE MODE : in a process that uses libdlm by itself, until end-hold
		return s.hold(ctx, out, id, p)
	case "end-hold":
		return s.endHold(id)
	default:
		return errOtherVerb
	}
	return nil
}

// onDaemon are commands about the daemon of a node.
func (s *story) onDaemon(ctx context.Context, out *bytes.Buffer, id int, verb string, p []string) error {
	d := s.rig.services[id]
	switch verb {
	case "start-daemon":
		return d.Start(ctx)
	case "kill-daemon":
		return d.Kill(ctx)
	case "stop-daemon":
		return d.Stop(ctx)
	case "save-state": // for put-state after a reboot
		text, err := d.Node.Get(ctx, service.StateFile)
		s.saved[id] = text
		return err
	case "lose-state":
		_, err := d.Node.Run(ctx, "rm", "-rf", service.StateDir)
		return err
	case "put-state":
		if _, err := d.Node.Run(ctx, "mkdir", "-m", "700", service.StateDir); err != nil {
			return err
		}
		return d.Node.Put(ctx, service.StateFile, 0o600, s.saved[id])
	case "log": // what the daemon has said in this story
		out.WriteString(s.daemonLog(id))
	case "listen": // to signals, from now on
		return s.listen(ctx, id)
	case "heard":
		s.heard[id].print(out)
	case "requests": // N LOCKSPACE/RESOURCE MODE : of one connection, which stays until end-requests
		return s.requests(ctx, id, p)
	case "end-requests":
		err := s.crowds[id].Close()
		delete(s.crowds, id)
		return err
	case "threads": // MOST : whether the daemon has no more
		text, err := d.Node.Run(ctx, "sh", "-c", fmt.Sprintf("ls /proc/%d/task | wc -l", d.PID()))
		n, _ := strconv.Atoi(strings.TrimSpace(text))
		most, _ := strconv.Atoi(p[0])
		fmt.Fprintf(out, "n%d: at most %d threads: %v\n", id, most, n > 0 && n <= most)
		s.t.Logf("the daemon of node %d has %d threads", id, n)
		return err
	case "pause-daemon", "resume-daemon":
		sig := map[string]string{"pause-daemon": "-STOP", "resume-daemon": "-CONT"}[verb]
		_, err := d.Node.Run(ctx, "kill", sig, strconv.Itoa(d.PID()))
		return err
	default:
		return errOtherVerb
	}
	return nil
}

// call are the members of the service.
func (s *story) call(ctx context.Context, out *bytes.Buffer, c *client.Client, id int, verb string, p []string, o options) error {
	say := func(format string, a ...any) { fmt.Fprintf(out, "n%d: "+format+"\n", append([]any{id}, a...)...) }
	lockspace, resource := "", ""
	if len(p) > 0 {
		lockspace, resource = place(p[0])
	}
	var err error
	switch verb {
	case "acquire": // LOCKSPACE/RESOURCE MODE [owner=] [label=] [lifetime=] [pid=NAME] [value=] [wait=] [tokens=all]
		var g client.Grant
		g, err = c.Acquire(ctx, client.Want{Lockspace: lockspace, Resource: resource, Mode: p[1]},
			client.Options{Owner: o["owner"], Label: o["label"], Lifetime: o["lifetime"], PID: s.pids[o["pid"]], Value: o.value(), Wait: o.wait()})
		if err == nil {
			say("granted lkid=%s, %s", s.letter(id, g.LockID), s.token(o.tokensOf(id), p[0], g.Token))
		}
	case "convert": // LOCKSPACE/RESOURCE MODE [owner=] [value=] [wait=] [tokens=all]
		var token uint64
		token, err = c.ConvertValue(ctx, client.Want{Lockspace: lockspace, Resource: resource, Mode: p[1]}, client.Selector{Owner: o["owner"]}, o.wait(), o.value())
		if err == nil {
			say("converted, %s", s.token(o.tokensOf(id), p[0], token))
		}
	case "acquire-all": // ROUNDS LOCKSPACE/RESOURCE... : again and again, all of them in EX, and let go
		var n int
		if n, err = s.acquireAll(ctx, c, p); err == nil {
			say("granted %d times", n)
		}
	case "release": // LOCKSPACE/RESOURCE [owner=]
		if err = c.Release(ctx, lockspace, resource, client.Selector{Owner: o["owner"]}); err == nil {
			say("released")
		}
	case "release-owner": // OWNER
		var n uint32
		if n, err = c.ReleaseOwner(ctx, "", p[0]); err == nil {
			say("released %d", n)
		}
	case "join":
		if err = c.Join(ctx, lockspace); err == nil {
			say("joined")
		}
	case "leave": // LOCKSPACE [force=yes]
		if err = c.Leave(ctx, lockspace, o["force"] != ""); err == nil {
			s.forget(id)
			say("left")
		}
	case "orphans": // LOCKSPACE
		return s.orphans(ctx, out, c, id, lockspace)
	case "adopt": // LOCKSPACE RESOURCE [owner=] [label=] : of the orphans
		return s.adopt(ctx, out, c, id, p, o)
	case "purge": // LOCKSPACE : the orphans that were listed last
		var n uint32
		if n, err = c.Purge(ctx, lockspace, s.shown); err == nil {
			say("purged %d", n)
		}
	default:
		return s.look(ctx, out, c, id, verb, p)
	}
	return err
}

// look are the members that only look.
func (s *story) look(ctx context.Context, out *bytes.Buffer, c *client.Client, id int, verb string, p []string) error {
	switch verb {
	case "list":
		locks, err := c.Locks(ctx, client.Filter{})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "n%d: %d locks\n", id, len(locks))
		for _, l := range locks {
			fmt.Fprintf(out, "  %s\n", s.describe(id, l))
		}
	case "lockspaces":
		spaces, err := c.Lockspaces(ctx)
		if err != nil {
			return err
		}
		for _, sp := range spaces {
			fmt.Fprintf(out, "n%d: %s %s, %d locks, %d orphans%s", id, sp.Name, sp.State, sp.Locks, sp.Orphans, healthText(sp.Health))
			if sp.Error != "" {
				fmt.Fprintf(out, ": %s", sp.Error)
			}
			fmt.Fprintln(out)
		}
	case "inspect": // LOCKSPACE/RESOURCE
		lockspace, resource := place(p[0])
		in, err := c.Inspect(ctx, lockspace, resource)
		if err != nil {
			return err
		}
		s.inspected(out, id, p[0], in)
	case "status": // PROPERTY...
		all, err := c.Status(ctx)
		if err != nil {
			return err
		}
		for _, name := range p {
			fmt.Fprintf(out, "n%d: %s %v\n", id, name, all[name])
		}
	default:
		return errOtherVerb
	}
	return nil
}

func (s *story) describe(node int, l client.Lock) string {
	text := fmt.Sprintf("%s/%s %s lkid=%s %s", l.Lockspace, l.Resource, l.Mode, s.letter(node, l.LockID), l.State)
	if l.Owner != "" {
		text += " owner=" + l.Owner
	}
	return text
}

func (s *story) inspected(out *bytes.Buffer, id int, name string, in client.Inspection) {
	fmt.Fprintf(out, "n%d: %s%s\n", id, name, healthText(in.Health))
	for _, l := range in.Locks {
		fmt.Fprintf(out, "  here %s\n", s.describe(id, l))
	}
	for _, l := range in.Lost {
		fmt.Fprintf(out, "  lost %s/%s %s (%s)\n", l.Lockspace, l.Resource, l.Mode, l.Reason)
	}
	for _, q := range []struct {
		name string
		held []client.Queued
	}{{"granted", in.Granted}, {"converting", in.Converting}, {"waiting", in.Waiting}} {
		for _, h := range q.held {
			if h.Mode == "NL" || h.Mode == "" && h.Wanted == "NL" {
				continue // the look at the value block itself
			}
			fmt.Fprintf(out, "  %s %s\n", q.name, strings.Join(strings.Fields(fmt.Sprintf("node %d %s %s", h.Node, h.Mode, h.Wanted)), " "))
		}
	}
	for _, w := range in.Waits {
		fmt.Fprintf(out, "  %q of node %d for %s waits for %q of node %d in %s\n", w.Who, w.Node, w.Mode, w.ForWho, w.ForNode, w.ForMode)
	}
	if text := strings.TrimRight(string(in.Value), "\x00"); in.Holder == nil && text != "" && !strings.ContainsRune(text, 0) {
		fmt.Fprintf(out, "  value: %q valid=%v\n", text, !*in.ValueInvalid)
	}
	if h := in.Holder; h != nil && h.Node != 0 {
		fmt.Fprintf(out, "  value: node %d %s %q\n", h.Node, h.Mode, h.Who)
	}
	for _, m := range in.Missing {
		fmt.Fprintf(out, "  missing: %s\n", m)
	}
}

func healthText(h client.Health) string {
	text := ""
	if h.Stopped != nil && *h.Stopped {
		text += " stopped: " + h.Reason
	}
	if h.Quorate != nil && !*h.Quorate {
		text += " inquorate"
	}
	return text
}

func (s *story) orphans(ctx context.Context, out *bytes.Buffer, c *client.Client, id int, lockspace string) error {
	found, err := c.Orphans(ctx, lockspace)
	if err != nil {
		return err
	}
	s.shown = nil
	fmt.Fprintf(out, "n%d: %d orphans\n", id, len(found))
	for _, orphan := range found {
		s.shown = append(s.shown, orphan.LockID)
		fmt.Fprintf(out, "  %s %s lkid=%s", orphan.Resource, orphan.Mode, s.letter(id, orphan.LockID))
		if orphan.Who != "" {
			fmt.Fprintf(out, " who=%s", orphan.Who)
		}
		fmt.Fprintln(out)
	}
	return nil
}

// adopt takes over the orphan of a resource, and tells whether its token is the one
// that it had.
func (s *story) adopt(ctx context.Context, out *bytes.Buffer, c *client.Client, id int, p []string, o options) error {
	orphans, err := c.Orphans(ctx, p[0])
	if err != nil {
		return err
	}
	for _, orphan := range orphans {
		if orphan.Resource != p[1] {
			continue
		}
		token, err := c.Adopt(ctx, p[0], orphan, client.Adoption{Owner: o["owner"], Label: o["label"]})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "n%d: adopted lkid=%s, the token that it had: %v\n", id, s.letter(id, orphan.LockID), token != 0 && token == orphan.Token)
	}
	return nil
}

// hold asks for a lock in a process of its own, which keeps what it is granted.
func (s *story) hold(ctx context.Context, out *bytes.Buffer, id int, p []string) error {
	lockspace, resource := place(p[0])
	mode, err := dlm.ParseMode(p[1])
	if err != nil {
		return err
	}
	proc, err := startPeer(ctx, s.rig.cluster.Node(id))
	if err != nil {
		return err
	}
	events := make(chan dlm.Event, 8)
	space, err := proc.Open(ctx, lockspace, func(ev dlm.Event) { events <- ev })
	if err != nil {
		proc.close()
		return err
	}
	space.Lock(1, resource, mode, dlm.NoQueue)
	ev := next(ctx, events)
	if ev.Status.OK() {
		s.holders[id] = proc
		fmt.Fprintf(out, "n%d: has it\n", id)
		return nil
	}
	proc.close()
	fmt.Fprintf(out, "n%d: refused, %v\n", id, ev.Status)
	return nil
}

func (s *story) endHold(id int) error {
	s.holders[id].close()
	delete(s.holders, id)
	return nil
}

// leaveOrphan takes a persistent lock in a process that then is killed.
func (s *story) leaveOrphan(ctx context.Context, out *bytes.Buffer, id int, p []string) error {
	lockspace, resource := place(p[0])
	mode, err := dlm.ParseMode(p[1])
	if err != nil {
		return err
	}
	proc := s.peer(ctx, id)
	ended := make(chan dlm.Event, 8)
	space, err := proc.Open(ctx, lockspace, func(ev dlm.Event) { ended <- ev })
	if err != nil {
		return err
	}
	space.Lock(1, resource, mode, dlm.NoQueue|dlm.Persistent)
	select {
	case ev := <-ended:
		if !ev.Status.OK() {
			return fmt.Errorf("the orphan to be: %v", ev.Status)
		}
		fmt.Fprintf(out, "n%d: orphan lkid=%s\n", id, s.letter(id, uint32(ev.LockID)))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	proc.close()
	delete(s.peers, id)
	return nil
}

// peer is a process of the story's own on a node.
func (s *story) peer(ctx context.Context, id int) *peerProcess {
	if p := s.peers[id]; p != nil && !p.ended() {
		return p
	}
	p, err := startPeer(ctx, s.rig.cluster.Node(id))
	require.NoError(s.t, err)
	s.peers[id] = p
	return p
}
