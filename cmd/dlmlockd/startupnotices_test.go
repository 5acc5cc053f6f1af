package main

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// earlyBus is a bus whose first client has subscribed, and has joined a lockspace, before RequestName
// returns.
type earlyBus struct {
	withoutBus
	joined chan error
}

func (b earlyBus) RequestName() error {
	b.core.Service().Join(api.Caller{Privileged: true}, "vms", func(err error) { b.joined <- err })
	return <-b.joined
}

// Who subscribes as soon as the service has its name misses nothing that happens from then on.
func TestEarlySubscriberMissesNothing(t *testing.T) {
	var mu sync.Mutex
	var told []api.SpaceState
	d := &daemon{log: slog.New(slog.DiscardHandler), core: frontend.New(frontend.Config{})}
	d.engine, d.gc.leave = local.New("host"), true
	d.server = earlyBus{withoutBus{d.core}, make(chan error, 1)}
	d.notices.to = func(n api.Notice) {
		if n, ok := n.(api.LockspaceChanged); ok {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, n.State)
		}
	}
	d.service = lockd.New(lockd.Config{Engine: d.engine, Journal: discardJournal{}, Instance: "inst",
		BootID: "this", Notify: d.notices.notify})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.service.Run(ctx) }()
	require.NoError(t, d.open(ctx))
	cancel()
	require.NoError(t, <-ended)
	mu.Lock()
	defer mu.Unlock()
	require.Contains(t, told, api.SpaceReady)
}

// However many wait for adopted locks, who has lost a lock is told.
func TestStartupNoticesOfLostLocksHaveRoom(t *testing.T) {
	var told []api.Notice
	h := startupNotices{to: func(n api.Notice) { told = append(told, n) }}
	for range maxStartupNotices + 1 {
		h.notify(api.BlockingNotice{})
	}
	lost := api.LockLost{Lost: api.Lost{Reason: "x"}}
	h.notify(lost)
	h.open()
	require.Len(t, told, maxStartupNotices+1)
	require.Contains(t, told, api.Notice(lost))
}
