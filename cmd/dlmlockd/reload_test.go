package main

import (
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
