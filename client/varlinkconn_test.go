package client

import (
	"bufio"
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// answering is a service that answers every call, and says of each connection when it has ended.
func answering(t *testing.T) (path string, ended <-chan struct{}) {
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	ends := make(chan struct{}, 8)
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					if _, err := r.ReadString(0); err != nil {
						ends <- struct{}{}
						return
					}
					_, _ = c.Write([]byte(`{"parameters":{"granted":[]}}` + "\x00"))
				}
			}()
		}
	}()
	return path, ends
}

// A client looks often for a service that is just restarting, and seldom for one that stays away or
// that ends again and again.
func TestPausesOfAnOutage(t *testing.T) {
	nobody := func(path string) error {
		p := newVarlink(path).pool
		defer p.close()
		_, err := p.dial(t.Context())
		require.Error(t, err)
		return varlinkError("Watch", err)
	}
	path := filepath.Join(t.TempDir(), "s")
	missing := nobody(path)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	begin := time.Unix(1000, 0)
	for _, err := range []error{missing, nobody(path)} {
		r := redial{since: begin}
		for now := begin; now.Before(begin.Add(redialOften)); now = now.Add(retryPause) {
			require.Equal(t, retryPause, r.pause(err, now), err)
		}
		late := begin.Add(redialOften)
		require.Equal(t, 2*retryPause, r.pause(err, late), err)
		for range 10 {
			r.pause(err, late)
		}
		require.Equal(t, redialMost, r.pause(err, late), err)
	}
	r := redial{since: begin}
	require.Equal(t, retryPause, r.pause(net.ErrClosed, begin))
	require.Equal(t, 2*retryPause, r.pause(net.ErrClosed, begin), "somebody has accepted it")
}

// ender ends a context as soon as a reply is read.
type ender struct{ end context.CancelFunc }

func (e *ender) UnmarshalJSON([]byte) error {
	e.end()
	return nil
}

// A connection that the end of a context closes is given to no other call, though its own was answered.
func TestAnsweredAsTheContextEnds(t *testing.T) {
	path, ended := answering(t)
	v := newVarlink(path)
	defer v.close()
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, v.call(ctx, "Ping", "test.Ping", parameters{}, &ender{cancel}))
	require.Empty(t, v.pool.idle)
	<-ended
	require.NoError(t, v.call(t.Context(), "Ping", "test.Ping", parameters{}, nil))
	require.Len(t, v.pool.idle, 1)
}

// Locks that hang on a connection which the end of a context closes are not reported as held.
func TestGrantedAsTheContextEnds(t *testing.T) {
	path, ended := answering(t)
	v := newVarlink(path)
	defer v.close()
	ctx, cancel := context.WithCancel(t.Context())
	err := v.many(ctx, Options{Lifetime: Connection}, parameters{}, &ender{cancel})
	require.ErrorIs(t, err, Canceled)
	require.Empty(t, v.pool.keep)
	<-ended
}

// olderService answers like a service that does not know the parameters owner and ownerPrefix of
// Monitor, and passes on the calls that it gets.
func olderService(t *testing.T) (path string, calls <-chan string) {
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	asked := make(chan string, 8)
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					call, err := r.ReadString(0)
					if err != nil {
						return
					}
					asked <- call
					answer := `{"parameters":{"ready":true},"continues":true}`
					if strings.Contains(call, "owner") {
						answer = `{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"owner"}}`
					}
					_, _ = c.Write([]byte(answer + "\x00"))
				}
			}()
		}
	}()
	return path, asked
}
