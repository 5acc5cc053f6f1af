package lab_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/image"
	"github.com/dlmlock/dlmlockd/lab/peer"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// seriesToTest are the kernels of LAB_KERNELS, or all.
func seriesToTest() []string {
	if only := strings.Fields(os.Getenv("LAB_KERNELS")); len(only) > 0 {
		return only
	}
	return image.Series()
}

// serviceRig is a cluster with the service installed on its nodes.
type serviceRig struct {
	cluster  *lab.Cluster
	programs programs
	services map[int]*service.Service
	logStart map[int]int64 // where the daemons' log begins for the test that runs

	fencing bool // lost nodes are powered off
	worn    bool // no node is as it was: all are booted before the next test

	gate         fenceGate
	fencedBefore int // how many nodes were fenced before the test that runs
}

// daemonConfig is the daemons' configuration, unless a story changes it.
var daemonConfig = defaultSettings().text()

// newServiceRig boots a cluster whose nodes have the service and dlmpeer, and
// are members.
func newServiceRig(t *testing.T, config lab.Config) *serviceRig {
	r := bootServiceRig(t, config)
	r.join(t)
	return r
}

// bootServiceRig boots nodes that have dlmpeer; corosync does not run yet.
func bootServiceRig(t *testing.T, config lab.Config) *serviceRig {
	r := &serviceRig{programs: buildPrograms(t), services: map[int]*service.Service{}, logStart: map[int]int64{},
		fencing: config.Fencing}
	r.gate.open = make(chan struct{})
	close(r.gate.open)
	config.BeforeFence = func(*lab.Node, int) { r.gate.pass() }
	r.cluster = lab.Start(t, config)
	for _, n := range r.cluster.Nodes() {
		r.services[n.ID] = &service.Service{Node: n}
		require.NoError(t, n.Push(lab.Context(t, "push", commandTime), r.programs.peer, peerPath))
	}
	return r
}

// join makes the nodes a cluster and installs the service on them.
func (r *serviceRig) join(t *testing.T) {
	t.Helper()
	require.NoError(t, r.cluster.JoinDLM(lab.Context(t, "joining", joinTime)))
	var all sync.WaitGroup
	for _, n := range r.cluster.Nodes() {
		all.Go(func() { r.install(t, n.ID) })
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// programs are what was built for the nodes, on this machine.
type programs struct {
	daemon, peer string
	crash        map[string]string // for the crash test: path here to path there
}

// built is done once for all tests: compiling is work, and the nodes need the
// processors.
var built = sync.OnceValues(func() (p programs, err error) {
	dir, err := os.MkdirTemp("", "lab-programs-")
	if err != nil {
		return p, err
	}
	programsDir = dir
	ctx := context.Background()
	if p.daemon, err = service.Build(ctx, dir); err != nil {
		return p, err
	}
	p.peer = filepath.Join(dir, "dlmpeer")
	out, err := exec.CommandContext(ctx, "go", "build", "-tags", "libdlm", "-o", p.peer, "./cmd/dlmpeer").CombinedOutput()
	if err != nil {
		return p, fmt.Errorf("dlmpeer: %w\n%s", err, out)
	}
	p.crash, err = crashPrograms(ctx, dir, p.daemon)
	return p, err
})

var programsDir string

func TestMain(m *testing.M) {
	code := m.Run()
	if programsDir != "" {
		os.RemoveAll(programsDir)
	}
	os.Exit(code)
}

func buildPrograms(t *testing.T) programs {
	t.Helper()
	p, err := built()
	require.NoError(t, err)
	return p
}

// install puts the programs on a node that has joined the cluster.
func (r *serviceRig) install(t *testing.T, id int) {
	ctx, n := lab.Context(t, "install", commandTime), r.cluster.Node(id)
	err := admitCallers(ctx, n)
	if err != nil {
		t.Error(err)
		return
	}
	if *r.services[id], err = installed(ctx, n, r.programs.daemon); err != nil {
		t.Error(err)
	}
}

func installed(ctx context.Context, n *lab.Node, program string) (service.Service, error) {
	s, err := service.Install(ctx, n, program, daemonConfig)
	if err != nil {
		return service.Service{}, err
	}
	return *s, nil
}

// boot starts a node that is off, makes it join the cluster and installs the
// service. A node that comes up before it was fenced for its last end is powered
// off once more if it takes too long to join (post_join_delay); as most fence
// devices do, boot starts it again.
func (r *serviceRig) boot(t *testing.T, id int) error {
	err := r.bootOnce(t, id)
	if err != nil && !r.cluster.Node(id).Up() {
		t.Logf("node %d is off again, fenced as it came up perhaps, and is started once more: %v", id, err)
		err = r.bootOnce(t, id)
	}
	return err
}

func (r *serviceRig) bootOnce(t *testing.T, id int) error {
	n := r.cluster.Node(id)
	if err := n.Boot(lab.Context(t, "boot", commandTime)); err != nil {
		return err
	}
	if err := n.Push(lab.Context(t, "push", commandTime), r.programs.peer, peerPath); err != nil {
		return err
	}
	if err := n.JoinDLM(lab.Context(t, "join", commandTime)); err != nil {
		return err
	}
	r.install(t, id)
	return nil
}

// fresh makes the cluster as it was at first: every node up and in the cluster,
// no daemon, no state, no lockspace. A node that can't be cleaned is rebooted.
func (r *serviceRig) fresh(t *testing.T) {
	t.Helper()
	r.openFenceGate()
	r.cluster.Heal()
	for _, n := range r.cluster.Nodes() {
		// Two halves of a cluster that both went on can't be joined again.
		if n.Up() && (r.worn || r.clean(n) != nil) {
			t.Logf("%s is booted again", n.Name)
			require.NoError(t, n.Crash())
		}
	}
	r.worn = false
	r.bootAll(t)
	var ids []int
	for _, n := range r.cluster.Nodes() {
		ids = append(ids, n.ID)
		info, err := os.Stat(filepath.Join(r.cluster.Artefacts(), n.Name+"."+service.LogName))
		if err == nil {
			r.logStart[n.ID] = info.Size()
		}
	}
	require.NoError(t, r.cluster.WaitMembers(lab.Context(t, "members", commandTime), ids...))
	r.fencedBefore = len(r.cluster.Fenced())
}

// bootAll boots the nodes that are off, all at once: one that joins waits until
// all that are up are members.
func (r *serviceRig) bootAll(t *testing.T) {
	t.Helper()
	var all sync.WaitGroup
	for _, n := range r.cluster.Nodes() {
		if !n.Up() {
			all.Go(func() {
				if err := r.boot(t, n.ID); err != nil {
					t.Errorf("%s: %v", n.Name, err)
				}
			})
		}
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// cleanTime bounds the cleaning of a node. Its kernel may be stuck.
const cleanTime = 20 * time.Second

// clean ends the daemon of a node and leaves every lockspace.
func (r *serviceRig) clean(n *lab.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTime)
	defer cancel()
	d := r.services[n.ID]
	if d.Running() {
		if err := d.Kill(ctx); err != nil {
			return err
		}
	}
	if _, err := n.Run(ctx, "rm", "-rf", service.StateDir); err != nil {
		return err
	}
	if err := d.Configure(ctx, daemonConfig); err != nil {
		return err
	}
	p, err := startPeer(ctx, n)
	if err != nil {
		return err
	}
	defer p.close()
	names, err := p.Lockspaces(ctx)
	for _, name := range names {
		if err := p.Remove(ctx, name); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	_, err = n.Run(ctx, "dlm_tool", "status")
	return err
}

// fenceGate lets fencing through, or makes it wait.
type fenceGate struct {
	mu     sync.Mutex
	open   chan struct{} // closed: fencing goes through
	closed bool
}

func (g *fenceGate) pass() {
	g.mu.Lock()
	open := g.open
	g.mu.Unlock()
	<-open
}

func (r *serviceRig) closeFenceGate() {
	r.gate.mu.Lock()
	defer r.gate.mu.Unlock()
	if !r.gate.closed {
		r.gate.open, r.gate.closed = make(chan struct{}), true
	}
}

func (r *serviceRig) openFenceGate() {
	r.gate.mu.Lock()
	defer r.gate.mu.Unlock()
	if r.gate.closed {
		r.gate.closed = false
		close(r.gate.open)
	}
}

// peerPath is dlmpeer in the nodes.
const peerPath = "/usr/local/bin/dlmpeer"

// peerProcess is a dlmpeer on a node: a process that uses libdlm without the
// service.
type peerProcess struct {
	*peer.Client
	proc *agent.Process
}

func startPeer(ctx context.Context, n *lab.Node) (*peerProcess, error) {
	in, out := io.Pipe()
	proc, err := n.Start(ctx, agent.Command{Argv: []string{peerPath}, Stdout: out})
	if err != nil {
		return nil, fmt.Errorf("dlmpeer: %w", err)
	}
	go func() {
		<-proc.Done()
		out.Close()
	}()
	return &peerProcess{Client: peer.NewClient(in, proc), proc: proc}, nil
}

// close kills the process: its persistent locks are orphans then.
func (p *peerProcess) close() {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTime)
	defer cancel()
	_ = p.proc.Kill(ctx)
}

func (p *peerProcess) ended() bool {
	select {
	case <-p.proc.Done():
		return true
	default:
		return false
	}
}
