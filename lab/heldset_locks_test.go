package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
)

// locks is the lock service that is tried.
type locks interface {
	// command has the arguments after which a command runs under the lock of a set.
	command(set string) []string
	environment() []string
	// killService kills the service on a node and starts it again.
	killService(ctx context.Context, n *lab.Node) error
	// release takes the lock of a set away from its holder on a node.
	release(ctx context.Context, n *lab.Node, set string) error
	// again makes the node as it was at first, if it is off or has been cut off.
	again(ctx context.Context, n *lab.Node, cut bool) error
}

// dlmLocks is dlmlockd, with dlmlockctl run.
type dlmLocks struct {
	*serviceRig
	t        *testing.T
	commands string // dlmlockctl
}

func (d *dlmLocks) command(set string) []string {
	onLost := map[string]string{"kill": "kill"}[set]
	if onLost == "" {
		onLost = "warn"
	}
	return []string{"dlmlockctl", "run", "--wait=forever", "--on-lost=" + onLost, heldSpace + "/" + set, "--"}
}

// heldSpace is the lockspace of the sets' locks.
const heldSpace = "vms"

func (d *dlmLocks) environment() []string { return nil }

func (d *dlmLocks) start(ctx context.Context, n *lab.Node) error {
	if err := n.Push(ctx, d.commands, "/usr/local/bin/dlmlockctl"); err != nil {
		return err
	}
	return d.services[n.ID].Start(ctx)
}

func (d *dlmLocks) killService(ctx context.Context, n *lab.Node) error {
	if err := d.services[n.ID].Kill(ctx); err != nil {
		return err
	}
	return d.services[n.ID].Start(ctx)
}

func (d *dlmLocks) release(ctx context.Context, n *lab.Node, set string) error {
	_, err := n.Shell(ctx, fmt.Sprintf("dlmlockctl list %[1]s %[2]s --state=held --columns=lockid --no-legend | "+
		"xargs -n 1 dlmlockctl release %[1]s %[2]s --lockid", heldSpace, set))
	return err
}

func (d *dlmLocks) again(ctx context.Context, n *lab.Node, cut bool) error {
	if cut && n.Up() {
		// It can't be joined again with the others, which have gone on without it.
		if err := n.Crash(); err != nil {
			return err
		}
	}
	d.cluster.Heal()
	if n.Up() {
		return nil
	}
	if err := d.boot(d.t, n.ID); err != nil {
		return err
	}
	return d.start(ctx, n)
}

// etcdLocks is etcd, a member on each node, with etcdctl lock.
type etcdLocks struct {
	cluster *lab.Cluster
	members map[int]*agent.Process
	log     io.Writer
}

// etcdTTL is the time of a lease, in seconds: the shortest that etcd takes with the
// election timeout of startMember.
const etcdTTL = 5

func (e *etcdLocks) command(set string) []string {
	argv := []string{"etcdctl", "lock", fmt.Sprintf("--ttl=%d", etcdTTL), set, "--"}
	if set == "kill" {
		argv = append(argv, heldsetPath, "guard")
	}
	return argv
}

func (e *etcdLocks) environment() []string {
	return []string{"ETCDCTL_API=3", "ETCDCTL_ENDPOINTS=" + strings.Join(e.each("%s:2379"), ",")}
}

func (e *etcdLocks) each(format string) (all []string) {
	for _, n := range e.cluster.Nodes() {
		all = append(all, fmt.Sprintf(format, n.Addr))
	}
	return all
}

// startMember starts a node's member; its time limits are those of a slow network,
// because the nodes are slow.
func (e *etcdLocks) startMember(ctx context.Context, n *lab.Node) error {
	var peers []string
	for _, o := range e.cluster.Nodes() {
		peers = append(peers, fmt.Sprintf("%s=http://%s:2380", o.Name, o.Addr))
	}
	p, err := n.Start(ctx, agent.Command{Argv: []string{"etcd", "--name=" + n.Name, "--data-dir=/run/etcd",
		"--listen-client-urls=http://0.0.0.0:2379", fmt.Sprintf("--advertise-client-urls=http://%s:2379", n.Addr),
		fmt.Sprintf("--listen-peer-urls=http://%s:2380", n.Addr),
		fmt.Sprintf("--initial-advertise-peer-urls=http://%s:2380", n.Addr), "--initial-cluster=" + strings.Join(peers, ","),
		"--heartbeat-interval=300", "--election-timeout=3000"}, Stdout: e.log, Stderr: e.log})
	e.members[n.ID] = p
	return err
}

func (e *etcdLocks) killService(ctx context.Context, n *lab.Node) error {
	if err := e.members[n.ID].Kill(ctx); err != nil {
		return err
	}
	return e.startMember(ctx, n)
}

func (e *etcdLocks) release(ctx context.Context, n *lab.Node, set string) error {
	_, _, err := n.RunCommand(ctx, agent.Command{Env: e.environment(), Argv: []string{"sh", "-c", fmt.Sprintf(
		"key=$(etcdctl get --prefix %s/ --sort-by=CREATE --limit=1 --keys-only) && etcdctl lease revoke ${key##*/}",
		set)}}, nil)
	return err
}

func (e *etcdLocks) again(_ context.Context, n *lab.Node, _ bool) error {
	e.cluster.Heal()
	if !n.Up() {
		return errors.New(n.Name + " is off")
	}
	return nil
}
