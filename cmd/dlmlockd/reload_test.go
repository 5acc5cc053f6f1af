package main

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Whoever asks for a reload is answered, also if the reload hangs.
func TestReloadThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &daemon{reloading: reloading{reloads: make(chan chan error)}}
		begun := time.Now()
		err := d.askReload()
		require.ErrorIs(t, err, api.Timeout)
		require.ErrorContains(t, err, "try again later")

		go func() { <-d.reloads }() // and nothing more
		err = d.askReload()
		require.ErrorIs(t, err, api.Timeout)
		require.ErrorContains(t, err, "it is not done yet and goes on")
		require.Equal(t, 2*reloadTimeout, time.Since(begun))
	})
}

// A reload that hangs does not keep the service from ending, nor does it change anything after that.
func TestEndDuringReloadThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		d := &daemon{log: slog.New(slog.DiscardHandler), reloading: reloading{reloads: make(chan chan error),
			read: func() (options, error) { <-goOn; return options{}, nil }}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); d.serveReloads(ctx) }()
		asked := make(chan error, 1)
		go func() { asked <- d.askReload() }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		select {
		case <-ended:
		default:
			t.Error("the reload is waited for")
		}
		require.ErrorIs(t, <-asked, api.ShuttingDown)
		close(goOn)
		synctest.Wait()
	})
}
