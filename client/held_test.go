package client

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ends waits for the end of a context and returns its cause.
func ends(t *testing.T, ctx context.Context) error {
	t.Helper()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(patience):
		t.Fatal("the context does not end")
		return nil
	}
}

func lossOf(t *testing.T, ctx context.Context) *LossError {
	t.Helper()
	var loss *LossError
	require.ErrorIs(t, ends(t, ctx), ErrLost)
	require.ErrorAs(t, context.Cause(ctx), &loss)
	return loss
}

// heldLocks are the locks that are held on a resource.
func heldLocks(t *testing.T, c *Client, resource string) []Lock {
	t.Helper()
	locks, err := c.Locks(t.Context(), Filter{Lockspace: "vms", Resource: resource, State: "held"})
	require.NoError(t, err)
	return locks
}

// The context ends for each way to lose a lock, and says which it was.
func TestEveryLossEndsTheContext(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		ctx, other := t.Context(), r.open(true)
		for how, lose := range map[Loss]func() error{
			LossReleased:  func() error { return other.Release(ctx, "vms", "a", Selector{}) },
			LossConverted: func() error { _, err := other.Convert(ctx, Want{"vms", "a", "NL"}, Selector{}, 0); return err },
			LossReported:  func() error { return errors.Join(other.Leave(ctx, "vms", true), other.Join(ctx, "vms")) },
		} {
			held, unlock, err := c.Lock(ctx, Want{"vms", "a", ""}, Options{Label: "work"})
			require.NoError(t, err)
			require.NoError(t, held.Err())
			require.Len(t, heldLocks(t, other, "a"), 1)
			require.NoError(t, lose())
			loss := lossOf(t, held)
			require.Equal(t, how, loss.How, loss)
			require.Equal(t, "a", loss.Grant.Resource)
			require.NoError(t, unlock())
			require.NoError(t, unlock(), "a second call does nothing")
		}
		require.Empty(t, heldLocks(t, other, "a"), "what was converted is released in the end")
	})
}

// Neither a restart of the service nor a conversion of one's own is a loss. A lock that
// is gone after the restart is.
func TestHeldOverRestarts(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		ctx := t.Context()
		stays, unlock, err := c.Lock(ctx, Want{"vms", "stays", "PR"}, Options{})
		require.NoError(t, err)
		goes, _, err := c.Lock(ctx, Want{"vms", "goes", ""}, Options{})
		require.NoError(t, err)
		before := HeldBy(stays).Grants()[0]
		r.end(syscall.SIGKILL)
		r.start()
		require.NoError(t, HeldBy(stays).Convert(ctx, Want{"vms", "stays", "EX"}, patience))
		require.Equal(t, before.LockID, HeldBy(stays).Grants()[0].LockID)
		require.Equal(t, "EX", HeldBy(stays).Grants()[0].Mode)
		require.Greater(t, HeldBy(stays).Token(), before.Token)
		require.NoError(t, r.open(true).Release(ctx, "vms", "goes", Selector{}))
		require.Equal(t, LossReleased, lossOf(t, goes).How)
		// More than one round of questions later it is still held.
		require.False(t, pause(stays, askHeldEvery+askHeldEvery/2) == false, context.Cause(stays))
		r.end(syscall.SIGKILL)
		released := make(chan error, 1)
		go func() { released <- unlock() }() // waits for the service
		r.start()
		require.NoError(t, <-released)
		require.ErrorIs(t, ends(t, stays), ErrReleased)
		require.Empty(t, heldLocks(t, c, "stays"))
	})
}

// The end of the caller's context withdraws the call, and leaves nothing behind.
func TestLockIsWithdrawn(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		other := r.open(true)
		for _, want := range [][]Want{{{"vms", "a", ""}}, {{"vms", "free", ""}, {"vms", "a", ""}}} {
			_, unlock, err := other.Lock(t.Context(), Want{"vms", "a", ""}, Options{})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, _, err := c.LockAll(ctx, want, Options{})
				done <- err
			}()
			require.Eventually(t, func() bool {
				st, err := other.Status(t.Context())
				return err == nil && st["WaitingCount"].(uint32) > 0
			}, patience, 5*time.Millisecond)
			cancel()
			err = <-done
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorContains(t, err, "vms/a EX: not granted before the context ended")
			st, err := other.Status(t.Context())
			require.NoError(t, err)
			require.Zero(t, st["WaitingCount"], "nothing is left that could be granted later")
			require.NoError(t, unlock())
			require.Eventually(t, func() bool {
				st, err := other.Status(t.Context())
				return err == nil && st["WaitingCount"].(uint32) == 0 && st["LockCount"].(uint32) == 0
			}, patience, 5*time.Millisecond)
		}
		_, _, err := c.Lock(t.Context(), Want{"nowhere", "a", ""}, Options{})
		require.ErrorIs(t, err, NoSuchLockspace)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		before, err := other.Status(t.Context())
		require.NoError(t, err)
		for range 20 {
			_, _, err = c.Lock(ended, Want{"vms", "a", ""}, Options{})
			require.ErrorIs(t, err, context.Canceled)
		}
		after, err := other.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, before["LocksGranted"], after["LocksGranted"], "a call whose context has ended is not made")
	})
}

// The end of the bus ends no lock, and the watch goes on when the bus is back.
func TestHeldWithoutConnection(t *testing.T) {
	r := startReal(t)
	c := r.open(false)
	var said atomic.Int32
	c.Notify(func(string) { said.Add(1) })
	held, unlock, err := c.Lock(t.Context(), Want{"vms", "a", ""}, Options{})
	require.NoError(t, err)
	hung, _, err := c.Lock(t.Context(), Want{"vms", "b", ""}, Options{Lifetime: Connection})
	require.NoError(t, err)
	require.NoError(t, c.Conn().Close())
	require.Equal(t, "the connection to the message bus is gone, and the lock has ended with it", lossOf(t, hung).Reason)
	require.Eventually(t, func() bool { return said.Load() == 2 }, patience, 5*time.Millisecond)
	require.NoError(t, held.Err())
	require.NoError(t, r.open(true).Release(t.Context(), "vms", "a", Selector{}))
	require.Equal(t, LossReleased, lossOf(t, held).How)
	require.NoError(t, unlock())
}

// Close ends the contexts, since no loss would be noticed any more.
func TestCloseEndsTheContexts(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		held, unlock, err := c.Lock(t.Context(), Want{"vms", "a", ""}, Options{})
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.ErrorIs(t, ends(t, held), ErrClosed)
		_, _, err = c.Lock(t.Context(), Want{"vms", "b", ""}, Options{})
		require.Error(t, err)
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		require.Error(t, HeldBy(held).Release(short))
		_ = unlock
	})
}

// The lock ends with the process that it is for.
func TestHeldForAProcess(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		cmd := exec.Command("sleep", "1000")
		require.NoError(t, cmd.Start())
		h, err := c.Hold(t.Context(), []Want{{"vms", "a", "EX"}}, Options{PID: uint32(cmd.Process.Pid)})
		require.NoError(t, err)
		require.Equal(t, Process, h.Lifetime())
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
		<-h.Lost()
		require.Equal(t, LossReleased, h.Loss().How)
		require.NoError(t, h.Release(t.Context()))
	})
}

func TestReadersAndWriters(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		ctx := t.Context()
		l := &RWLock{Client: c, Lockspace: "vms", Resource: "a"}
		_, one, err := l.RLock(ctx)
		require.NoError(t, err)
		_, two, err := l.TryRLock(ctx)
		require.NoError(t, err)
		_, _, err = l.TryLock(ctx)
		require.ErrorIs(t, err, WouldBlock)
		require.NoError(t, one())
		require.NoError(t, two())
		_, write, err := l.Lock(ctx)
		require.NoError(t, err)
		_, _, err = l.TryRLock(ctx)
		require.ErrorIs(t, err, WouldBlock)
		require.NoError(t, write())
	})
}

func TestElections(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		ctx := t.Context()
		one := &Election{Client: c, Lockspace: "vms", Resource: "lead", Options: Options{Label: "one"}}
		two := &Election{Client: r.open(true), Lockspace: "vms", Resource: "lead", Options: Options{Label: "two"}}
		_, err := one.Leader(ctx)
		require.ErrorIs(t, err, ErrNoLeader)
		require.NoError(t, one.Resign(), "not elected")
		leading, err := one.Campaign(ctx)
		require.NoError(t, err)
		_, err = one.Campaign(ctx)
		require.ErrorIs(t, err, ErrElected)
		leader, err := two.Leader(ctx)
		require.NoError(t, err)
		require.Equal(t, Leader{Label: "one", Token: HeldBy(leading).Token()}, leader)
		elected := make(chan context.Context)
		go func() {
			leading, err := two.Campaign(ctx)
			if err != nil {
				close(elected)
				return
			}
			elected <- leading
		}()
		require.Eventually(t, func() bool {
			st, err := c.Status(ctx)
			return err == nil && st["WaitingCount"].(uint32) > 0
		}, patience, 5*time.Millisecond)
		require.NoError(t, one.Resign())
		require.ErrorIs(t, ends(t, leading), ErrReleased)
		next, ok := <-elected
		require.True(t, ok)
		require.Greater(t, HeldBy(next).Token(), leader.Token)
		leader, err = one.Leader(ctx)
		require.NoError(t, err)
		require.Equal(t, "two", leader.Label)
		require.NoError(t, two.Resign())
	})
}

func TestSemaphores(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		ctx := t.Context()
		s := &Semaphore{Client: c, Lockspace: "vms", Resource: "slots", Places: 3}
		var inside, most atomic.Int32
		done := make(chan error)
		for range 12 {
			go func() {
				_, release, err := s.Acquire(ctx)
				if err == nil {
					n := inside.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					_ = pause(ctx, 5*time.Millisecond)
					inside.Add(-1)
					err = release()
				}
				done <- err
			}()
		}
		for range 12 {
			require.NoError(t, <-done)
		}
		require.LessOrEqual(t, most.Load(), int32(3))
		var all []func() error
		for range 3 {
			require.Eventually(t, func() bool { // those who gave up are withdrawn by the end of their connections
				_, release, err := s.TryAcquire(ctx)
				all = append(all, release)
				return err == nil
			}, patience, 5*time.Millisecond)
		}
		_, _, err := s.TryAcquire(ctx)
		require.ErrorIs(t, err, WouldBlock)
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		_, _, err = s.Acquire(short)
		require.Error(t, err)
		require.Error(t, short.Err())
		for _, release := range all {
			if release != nil {
				require.NoError(t, release())
			}
		}
		require.Eventually(t, func() bool {
			st, err := c.Status(ctx)
			return err == nil && st["LockCount"].(uint32) == 0 && st["WaitingCount"].(uint32) == 0
		}, patience, 5*time.Millisecond)
		_, _, err = (&Semaphore{Client: c, Lockspace: "vms", Resource: "slots"}).Acquire(ctx)
		require.ErrorIs(t, err, InvalidArgs)
	})
}

// A loss that is reported before the name of the lock is known here is not missed.
func TestLossBeforeTheAnswer(t *testing.T) {
	k := &keeper{lost: map[LockName]Event{"/lock/1": {Lock: "/lock/1", Reason: "early"}}, users: 1, stopRun: func() {}}
	c := new(Client)
	h := &Held{c: c, lost: make(chan struct{}), grants: []Grant{{Lock: "/lock/1"}}}
	h.ctx, h.end = context.WithCancelCause(t.Context())
	k.add(h)
	require.Equal(t, "early", lossOf(t, h.ctx).Reason)

	// Nor is a release. A removal does not hide the loss that was reported before it.
	k = &keeper{lost: map[LockName]Event{}, users: 2, stopRun: func() {}}
	k.reported(Event{Kind: LockLost, Lock: "/lock/1", Reason: "early"})
	for lock, how := range map[LockName]Loss{"/lock/1": LossReported, "/lock/2": LossReleased} {
		k.reported(Event{Kind: lockRemoved, Lock: lock})
		h := &Held{c: c, lost: make(chan struct{}), grants: []Grant{{Lock: lock}}}
		h.ctx, h.end = context.WithCancelCause(t.Context())
		k.add(h)
		require.Equal(t, how, lossOf(t, h.ctx).How)
	}
}

// The examples run over Varlink where the others do; here they run over D-Bus.
func TestExamplesOverDBus(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	r := startReal(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^Example", "-test.v")
	cmd.Env = append(os.Environ(), AddressVariable+"="+r.bus.Address)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.GreaterOrEqual(t, strings.Count(string(out), "--- PASS: Example"), 8, "%s", out)
}

// The end of the context withdraws a call that waits for several locks, whatever their
// lifetime; after the call has returned nobody waits any more. The locks that it gets are
// tied to the client's own connection.
func TestManyAreWithdrawn(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		other := r.open(true)
		want := []Want{{"vms", "a", "EX"}, {"vms", "b", "EX"}}
		for _, lifetime := range []string{Connection, Process} {
			_, unlock, err := other.Lock(t.Context(), want[1], Options{})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error)
			go func() {
				_, err := c.Hold(ctx, want, Options{Lifetime: lifetime, Wait: -1})
				result <- err
			}()
			waits(t, other)
			cancel()
			require.ErrorIs(t, <-result, context.Canceled)
			require.Empty(t, found(t, other), lifetime)
			locks, err := other.Locks(t.Context(), Filter{Resource: "a"})
			require.NoError(t, err)
			require.Empty(t, locks)

			holds := make(chan *Held)
			go func() {
				h, err := c.Hold(t.Context(), want, Options{Lifetime: lifetime, Wait: -1})
				assert.NoError(t, err)
				holds <- h
			}()
			waits(t, other)
			require.NoError(t, unlock())
			h := <-holds
			require.NotNil(t, h)
			require.NoError(t, other.Release(t.Context(), "vms", "a", Selector{Owner: h.Owner()}))
			<-h.Lost()
			require.NoError(t, h.Release(t.Context()))
		}
	})
}

// A conversion that was given up is not carried out later.
func TestConversionIsWithdrawn(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		other := r.open(true)
		disk := Want{"vms", "disk", "PR"}
		_, unlock, err := other.Lock(t.Context(), disk, Options{})
		require.NoError(t, err)
		h, err := c.Hold(t.Context(), []Want{disk}, Options{})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { result <- h.Convert(ctx, Want{"vms", "disk", "EX"}, -1) }()
		waits(t, other)
		cancel()
		require.ErrorIs(t, <-result, Canceled)
		// If it is not withdrawn, the call waits for the longest time that is allowed.
		require.Eventually(t, func() bool { return len(found(t, other)) == 0 }, MaxWait/2, time.Millisecond)
		require.NoError(t, unlock())
		mode, err := other.Held(t.Context(), h.Grants()[0])
		require.NoError(t, err)
		require.Equal(t, "PR", mode)
		require.NoError(t, h.Convert(t.Context(), Want{"vms", "disk", "EX"}, -1))
		require.NoError(t, h.Release(t.Context()))
	})
}

// found returns the locks that wait.
func found(t *testing.T, c *Client) []Waiter {
	waiters, err := c.Waits(t.Context(), Filter{})
	require.NoError(t, err)
	return waiters
}

// waits returns when a lock waits.
func waits(t *testing.T, c *Client) {
	require.Eventually(t, func() bool { return len(found(t, c)) > 0 }, patience, time.Millisecond)
}

// Over Varlink a watch says in which lockspace somebody waits.
func TestBlockingNamesTheLockspace(t *testing.T) {
	r := startReal(t)
	c := r.open(true)
	disk := Want{"vms", "disk", "EX"}
	_, err := c.Acquire(t.Context(), disk, Options{})
	require.NoError(t, err)
	events, err := c.Watch(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := c.Acquire(ctx, disk, Options{Wait: -1})
		result <- err
	}()
	for e := range events {
		if e.Kind == Blocking {
			require.Equal(t, []string{"vms", "disk", "EX"}, []string{e.Lockspace, e.Resource, e.Mode})
			break
		}
	}
	cancel()
	require.ErrorIs(t, <-result, context.Canceled)
}
