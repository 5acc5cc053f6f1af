package lab_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/dlmtest"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/peer"
)

// rig is a cluster as the conformance suite sees it.
type rig struct {
	t       *testing.T // the whole test: processes outlive the rule that starts them
	cluster *lab.Cluster
	fresh   int
}

// shared is the lockspace that the rules and the engine's stories share.
const shared = "shared"

// joinShared makes all nodes members of it.
func (r *rig) joinShared(t *testing.T) {
	for i := range r.cluster.Nodes() {
		p := r.start(t, i)
		_, err := p.Create(lab.Context(t, "join "+shared, time.Minute), shared, func(dlm.Event) {})
		require.NoError(t, err)
		p.Kill()
	}
}

func (r *rig) Nodes() int                  { return len(r.cluster.Nodes()) }
func (r *rig) Lockspace(testing.TB) string { return shared }

func (r *rig) FreshLockspace(testing.TB) string {
	r.fresh++
	return fmt.Sprintf("fresh-%d", r.fresh)
}

func (r *rig) Timing() dlmtest.Timing {
	return dlmtest.Timing{Wait: 90 * time.Second, Settle: 150 * time.Millisecond}
}

func (r *rig) Process(t testing.TB, node int) dlmtest.Process { return r.start(t, node) }

// Crash makes the kernel panic.
func (r *rig) Crash(t testing.TB, node int) {
	require.NoError(t, r.cluster.Nodes()[node].Panic(lab.Context(t, "panic", stepTime)))
}

// process is a dlmpeer on a node.
type process struct {
	*peer.Client
	t    testing.TB
	proc *agent.Process
}

func (r *rig) start(t testing.TB, node int) *process {
	n := r.cluster.Nodes()[node]
	fromNode, out := io.Pipe()
	proc, err := n.Start(lab.Context(t, "start dlmpeer", time.Minute), agent.Command{
		Argv: []string{peerPath}, Stdout: out, Stderr: lineLog{r.t, n.Name},
	})
	require.NoError(t, err)
	go func() {
		<-proc.Done()
		out.Close()
	}()
	return &process{Client: peer.NewClient(fromNode, proc), t: r.t, proc: proc}
}

// Kill sends SIGKILL and waits for the end.
func (p *process) Kill() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(p.t, p.proc.Kill(ctx))
	<-p.Done()
}

// lineLog passes what a process says on to the log of the test.
type lineLog struct {
	t    *testing.T
	name string
}

func (l lineLog) Write(b []byte) (int, error) {
	fmt.Fprintf(l.t.Output(), "%s: %s", l.name, b)
	return len(b), nil
}

// Unlock makes another process of the node unlock a lock by its lockid. A
// write to the lockspace device is all that it takes (linux/dlm_device.h).
func (r *rig) Unlock(t testing.TB, node int, lockspace string, id dlm.LockID) {
	request := make([]byte, 120) // struct dlm_write_request
	binary.LittleEndian.PutUint32(request, 6)
	request[12], request[13] = 2, 1 // DLM_USER_UNLOCK, 64 bit
	binary.LittleEndian.PutUint32(request[24:], uint32(id))
	n := r.cluster.Nodes()[node]
	_, _, err := n.RunCommand(t.Context(), agent.Command{
		Argv: []string{"dd", "of=/dev/misc/dlm_" + lockspace, "bs=120", "count=1", "conv=notrunc"},
	}, bytes.NewReader(request))
	// The kernel says that it wrote 0 bytes, which dd takes for a full disk.
	require.ErrorContains(t, err, "No space left")
}

// Stop does on every node what dlm_controld does when quorum is lost.
func (r *rig) Stop(t testing.TB, lockspace string) { r.control(t, lockspace, "0") }

// Resume is its opposite: the nodes recover the lockspace.
func (r *rig) Resume(t testing.TB, lockspace string) { r.control(t, lockspace, "1") }

func (r *rig) control(t testing.TB, lockspace, order string) {
	for _, n := range r.cluster.Nodes() {
		_, err := n.Shell(t.Context(), "echo "+order+" > /sys/kernel/dlm/"+lockspace+"/control")
		require.NoError(t, err)
	}
}
