package virtlockd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// host is a node with the service and the door, which may be restarted.
type host struct {
	t       testing.TB
	node    *local.Node
	dir     string
	socket  string
	set     Settings
	log     io.Writer
	door    *Door
	service *lockd.Service
	watcher *process.Watcher
	file    *state.File
	stop    context.CancelFunc
	work    sync.WaitGroup
}

// start starts a host on a node of a cluster of the embedded lock manager.
func start(t testing.TB, set Settings) *host {
	return startOn(t, local.NewCluster("test").AddNode(1), set)
}

func startOn(t testing.TB, node *local.Node, set Settings) *host {
	h := &host{t: t, node: node, dir: t.TempDir(), set: set, log: io.Discard}
	h.socket = filepath.Join(h.dir, "sock")
	h.open()
	h.serve()
	t.Cleanup(h.end)
	return h
}

// open opens the door, without the service.
func (h *host) open() {
	h.door = New(Config{Settings: h.set, Instance: "test", Log: slog.New(slog.NewTextHandler(h.log, nil))})
	l, err := net.Listen("unix", h.socket)
	require.NoError(h.t, err)
	h.work.Go(func() {
		if err := h.door.Serve(l); err != nil {
			h.t.Errorf("serve: %v", err)
		}
	})
}

// serve starts the service, and gives it to the door when it is ready.
func (h *host) serve() {
	engine := h.node.Engine()
	info, err := engine.Node(h.t.Context())
	require.NoError(h.t, err)
	file, contents, err := state.Open(filepath.Join(h.dir, "state"), state.Options{
		Header: state.Header{BootID: "boot", NodeID: info.ID, Cluster: info.Cluster, Engine: engine.Name()},
		Log:    slog.New(slog.DiscardHandler)})
	require.NoError(h.t, err)
	h.file = file
	h.watcher, err = process.NewWatcher()
	require.NoError(h.t, err)
	h.service = lockd.New(lockd.Config{Engine: engine, Journal: file, Contents: contents, BootID: "boot",
		Instance: file.Header().Instance,
		Node:     info, Quorum: api.Quorate, Processes: h.watcher, Log: slog.New(slog.DiscardHandler),
		Lockspaces: []string{"libvirt", "leases", "volumes"}})
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	h.work.Go(func() { _ = h.service.Run(ctx) })
	<-h.service.Ready()
	h.door.Start(h.service)
}

// restart ends both and starts them again, as an upgrade does.
func (h *host) restart() {
	h.end()
	h.open()
	h.serve()
}

// owners are those of the locks.
func (h *host) owners() []string {
	pages := make(chan api.Page, 1)
	h.service.List(api.Filter{}, func(p api.Page, err error) { pages <- p })
	var out []string
	for _, l := range (<-pages).Locks {
		if l.Lifetime == state.Process && !slices.Contains(out, l.Owner) {
			out = append(out, l.Owner)
		}
	}
	return out
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestMain(m *testing.M) {
	if socket := os.Getenv(asGuest); socket != "" {
		if err := beGuest(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// end stops door and service; locks stay.
func (h *host) end() {
	if h.stop == nil {
		return
	}
	require.NoError(h.t, h.door.Close())
	h.stop()
	h.work.Wait()
	require.NoError(h.t, h.watcher.Close())
	require.NoError(h.t, h.file.Close())
	h.stop = nil
}

// locks are "LABEL MODE" of what is held, sorted.
func (h *host) locks() []string {
	pages := make(chan api.Page, 1)
	h.service.List(api.Filter{}, func(p api.Page, err error) { pages <- p })
	out := []string{}
	for _, l := range (<-pages).Locks {
		if l.State == api.Held && l.Lifetime == state.Process {
			out = append(out, l.Label+" "+l.Mode.String())
		}
	}
	slices.Sort(out)
	return out
}

// held waits until just these locks are there.
func (h *host) held(want ...string) {
	h.t.Helper()
	require.EventuallyWithT(h.t, func(t *assert.CollectT) { assert.Equal(t, append([]string{}, want...), h.locks()) },
		patience, time.Millisecond)
}
