package host_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/libvirt/host"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
	"github.com/dlmlock/dlmlockd/virtlockd"
)

// serveOn starts the service on a node whose cluster the test has in hand, with the
// socket for libvirt's own driver, and returns the socket's path.
func serveOn(t *testing.T, node *local.Node, timeout time.Duration) (socket string) {
	dir := t.TempDir()
	engine := node.Engine()
	info, err := engine.Node(t.Context())
	require.NoError(t, err)
	file, contents, err := state.Open(filepath.Join(dir, "state"), state.Options{
		Header: state.Header{BootID: "boot", NodeID: info.ID, Cluster: info.Cluster, Engine: engine.Name()},
		Log:    slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	watcher, err := process.NewWatcher()
	require.NoError(t, err)
	service := lockd.New(lockd.Config{Engine: engine, Journal: file, Contents: contents, BootID: "boot",
		Instance: file.Header().Instance, Node: info, Quorum: api.Quorate, Processes: watcher,
		Log: slog.New(slog.DiscardHandler), Lockspaces: []string{"libvirt"}})
	door := virtlockd.New(virtlockd.Config{Settings: virtlockd.Settings{Timeout: timeout}, Instance: "test",
		Log: slog.New(slog.DiscardHandler)})
	socket = filepath.Join(dir, "sock")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { _ = door.Serve(listener) })
	work.Go(func() { _ = service.Run(ctx) })
	t.Cleanup(func() {
		require.NoError(t, door.Close())
		stop()
		work.Wait()
		require.NoError(t, watcher.Close())
		require.NoError(t, file.Close())
	})
	<-service.Ready()
	door.Start(service)
	return socket
}

// While the cluster recovers, what needs a lock is refused in time, and libvirtd stays
// usable: with virtlockd, libvirt's own driver would wait without end.
func TestStockEngineHangs(t *testing.T) {
	r := startWith(t, stock, "")
	const timeout = 2 * time.Second
	cluster := local.NewCluster("test")
	h := r.stockHostAt(serveOn(t, cluster.AddNode(1), timeout), "alpha", "")
	h.define("web", host.Disk{Path: r.image("a.img")})
	h.define("db", host.Disk{Path: r.image("b.img")})
	h.virsh("start", "web")
	cluster.Stop("libvirt", "a test")

	got := startWaits(t, h)
	t.Log(got.out)
	require.Contains(t, got.out, "of domain 'db' can't be locked: ")
	require.Equal(t, "shut off", h.state("db"))
	h.virsh("suspend", "web") // which libvirt does in any case
	require.Equal(t, "paused", h.state("web"))
	require.Contains(t, h.refused("resume", "web"), "of domain 'web' can't be locked: ")
	h.StopLibvirtd(9)
	h.StartLibvirtd() // which needs no lockspace

	cluster.Resume("libvirt")
	r.until("the cluster has recovered", func() bool {
		_, err := h.Virsh(t.Context(), "resume", "web")
		return err == nil
	})
	h.virsh("start", "db")
}
