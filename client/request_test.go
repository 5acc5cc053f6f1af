package client

import (
	"context"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
)

// complete sends the end of a Request to whoever made the last call.
func (s *service) complete(t *testing.T, path godbus.ObjectPath, state, errName string) {
	t.Helper()
	lock, lockid, token := godbus.ObjectPath("/"), uint32(0), uint64(0)
	if state == "granted" {
		lock, lockid, token = "/org/example/DlmLock/lock/9", 4, 7
	}
	m := &godbus.Message{Type: godbus.TypeSignal, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldDestination: s.last().Headers[godbus.FieldSender], godbus.FieldPath: godbus.MakeVariant(path),
		godbus.FieldInterface: godbus.MakeVariant(Name + ".Request"), godbus.FieldMember: godbus.MakeVariant("Completed"),
		godbus.FieldSignature: godbus.MakeVariant(godbus.ParseSignatureMust("soutss")),
	}, Body: []any{state, lock, lockid, token, errName, "the words"}}
	require.NoError(t, s.conn.Send(m, nil).Err)
}

const requestPath = "/org/example/DlmLock/request/1"

// patient starts a long wait against a stand-in that takes Requests and hands
// each member called to the test.
func patient(t *testing.T, ctx context.Context, o Options, acquire error) (s *service, called chan string,
	result chan error, grant *Grant) {
	called, result, grant = make(chan string, 16), make(chan error, 1), new(Grant)
	var c *Client
	s, c, _ = serve(t, func(member string, _ []any) ([]any, *godbus.Error) {
		called <- member
		switch {
		case member == "Request":
			return []any{godbus.ObjectPath(requestPath)}, nil
		case member == "Acquire":
			return nil, godbus.NewError(ownErrors+acquire.Error(), []any{"held by vm9"})
		}
		return nil, nil
	})
	go func() {
		g, err := c.Acquire(ctx, Want{"vms", "d", "shared"}, o)
		*grant = g
		result <- err
	}()
	require.Equal(t, "Request", <-called)
	return s, called, result, grant
}

func TestLongWaitGranted(t *testing.T) {
	s, _, result, grant := patient(t, t.Context(), Options{Wait: -1}, nil)
	s.complete(t, "/org/example/DlmLock/request/8", "failed", ownErrors+"Deadlock") // somebody else's
	s.complete(t, requestPath, "granted", "")
	require.NoError(t, <-result)
	require.Equal(t, Grant{"vms", "d", "PR", 4, 7, "/org/example/DlmLock/lock/9"}, *grant)
}

func TestLongWaitFails(t *testing.T) {
	s, _, result, _ := patient(t, t.Context(), Options{Wait: time.Hour, Owner: "o"}, nil)
	s.complete(t, requestPath, "failed", ownErrors+"Deadlock")
	err := <-result
	require.ErrorIs(t, err, Deadlock)
	require.EqualError(t, err, "the words")
}

// Who gives up withdraws the request, also when its answer is still to come.
func TestLongWaitGivenUp(t *testing.T) {
	for _, owner := range []string{"", "vm1"} {
		ctx, cancel := context.WithCancel(t.Context())
		s, called, result, _ := patient(t, ctx, Options{Wait: -1, Owner: owner}, nil)
		cancel()
		require.Equal(t, "Cancel", <-called)
		s.complete(t, requestPath, "canceled", ownErrors+"Canceled")
		require.ErrorIs(t, <-result, context.Canceled)
	}
}

// What was granted before it was withdrawn is granted: to the caller that is
// still there, or else it is let go of, unless it is an owner's.
func TestGrantedInTheEnd(t *testing.T) {
	s, c, _ := serve(t, nil)
	called := make(chan string, 16)
	s.answers(func(member string, _ []any) ([]any, *godbus.Error) {
		called <- member
		return nil, nil
	})
	events, err := c.base.(*bus).listen(t.Context(), true)
	require.NoError(t, err)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	grant := func() {
		require.Equal(t, "Cancel", <-called)
		s.complete(t, requestPath, "granted", "")
	}
	go grant()
	done, why := c.base.(*bus).await(gone, events, requestPath, nil)
	require.Error(t, why)
	want := Want{"vms", "d", "EX"}
	g, err, final := new(Options).outcome(want, done, why)
	require.True(t, final)
	require.NoError(t, err)
	require.EqualValues(t, 4, g.LockID)

	for _, owner := range []string{"", "vm1"} {
		asked := make(chan requested, 1)
		asked <- requested{path: requestPath}
		go grant()
		c.base.(*bus).abandon(asked, events, func() {}, want, Options{Owner: owner})
		if owner == "" {
			require.Equal(t, "Release", <-called)
			require.Equal(t, map[string]godbus.Variant{"lock": godbus.MakeVariant(g.Lock)}, s.last().Body[2])
		}
		require.Empty(t, called)
	}
}

// If the holder can't be found, the error still says that the wait is over.
func TestLongWaitTimesOut(t *testing.T) {
	s, c, _ := serve(t, nil)
	withdrawn := make(chan struct{})
	s.answers(func(member string, _ []any) ([]any, *godbus.Error) {
		switch member {
		case "Request":
			return []any{godbus.ObjectPath(requestPath)}, nil
		case "Cancel":
			go func() {
				defer close(withdrawn)
				s.complete(t, requestPath, "canceled", ownErrors+"Canceled")
			}()
			return nil, nil
		}
		return nil, godbus.NewError(busErrors+"AccessDenied", []any{"no"})
	})
	// MaxWait is the shortest that takes a Request; too long for a test.
	_, err := c.acquireLong(t.Context(), Want{"vms", "d", "EX"}, Options{Wait: 20 * time.Millisecond})
	require.ErrorIs(t, err, Timeout)
	require.EqualError(t, err, "acquire vms/d EX: not granted within 20ms; a larger Options.Wait waits longer, "+
		"a negative one without limit, and Inspect shows who is in the way")
	<-withdrawn // which comes later if the request had no number yet
}

// A service that restarts is asked again, whichever news of its end comes
// first, and never before all are in.
func TestLongWaitOverARestart(t *testing.T) {
	for _, order := range []string{"completed first", "name first"} {
		for _, owner := range []string{"", "vm1"} {
			t.Run(order+owner, func(t *testing.T) {
				s, called, result, _ := patient(t, t.Context(), Options{Wait: -1, Owner: owner}, nil)
				leave := func() {
					_, err := s.conn.ReleaseName(Name)
					require.NoError(t, err)
				}
				if order == "name first" {
					leave()
				}
				s.complete(t, requestPath, "failed", ownErrors+"ShuttingDown")
				if order == "completed first" {
					leave()
				}
				_, err := s.conn.RequestName(Name, 0)
				require.NoError(t, err)
				require.Equal(t, "Request", <-called)
				s.complete(t, requestPath, "granted", "")
				require.NoError(t, <-result)
				require.Empty(t, called)
			})
		}
	}
}

// A service that dies says nothing. With an owner asking again is safe; without
// one there may be a lock that nobody knows, and the caller must hear of it.
func TestLongWaitOverACrash(t *testing.T) {
	crash := func(s *service) {
		_, err := s.conn.ReleaseName(Name)
		require.NoError(t, err)
		_, err = s.conn.RequestName(Name, 0)
		require.NoError(t, err)
	}
	s, called, result, _ := patient(t, t.Context(), Options{Wait: -1, Owner: "vm1"}, nil)
	crash(s)
	require.Equal(t, "Request", <-called)
	s.complete(t, requestPath, "granted", "")
	require.NoError(t, <-result)

	s, called, result, _ = patient(t, t.Context(), Options{Wait: -1}, nil)
	crash(s)
	require.ErrorIs(t, <-result, NoAnswer)
	require.Empty(t, called)
}

// One that was never there is not waited for, and one that does not come back
// only until the time is over.
func TestLongWaitWithoutAService(t *testing.T) {
	s, c, _ := serve(t, func(string, []any) ([]any, *godbus.Error) { return []any{godbus.ObjectPath(requestPath)}, nil })
	_, err := s.conn.ReleaseName(Name)
	require.NoError(t, err)
	for _, wait := range []time.Duration{-1, time.Hour} {
		_, err = c.Acquire(t.Context(), Want{"vms", "d", "EX"}, Options{Wait: wait, Owner: "vm1"})
		require.ErrorIs(t, err, NotRunning)
	}
	_, err = s.conn.RequestName(Name, 0)
	require.NoError(t, err)
	result := make(chan error, 1)
	go func() {
		_, err := c.base.queued(t.Context(), Want{"vms", "d", "EX"},
			Options{Wait: stopTime + 500*time.Millisecond, Owner: "vm1"})
		result <- err
	}()
	require.Eventually(t, func() bool { return len(s.all()) == 1 }, time.Minute, time.Millisecond)
	_, err = s.conn.ReleaseName(Name)
	require.NoError(t, err)
	require.ErrorIs(t, <-result, Timeout)
}

// A service without Requests is asked by Acquire, again and again.
func TestLongWaitOfAnOlderService(t *testing.T) {
	s, c, _ := serve(t, nil)
	s.answers(func(member string, _ []any) ([]any, *godbus.Error) {
		if member == "Request" {
			return nil, godbus.NewError(busErrors+"UnknownMethod", []any{"no such member"})
		}
		return []any{uint32(4), uint64(7), godbus.ObjectPath("/l/1")}, nil
	})
	g, err := c.Acquire(t.Context(), Want{"vms", "d", "EX"}, Options{Wait: time.Hour})
	require.NoError(t, err)
	require.EqualValues(t, 4, g.LockID)
	require.Equal(t, godbus.MakeVariant(uint64(MaxWait/time.Microsecond)),
		s.last().Body[3].(map[string]godbus.Variant)["wait-usec"])
}
