package lockd

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/lockd/table"
	"github.com/dlmlock/dlmlockd/state"
)

// crowd has a caller queue n Requests for one resource that root holds.
func crowd(t *testing.T, d *daemon, c api.Caller, n int, m dlm.Mode, o api.AcquireOptions) (ended chan error) {
	_, err := d.acquire(root, "busy", dlm.EX, api.AcquireOptions{})
	require.NoError(t, err)
	started := make(chan error, n)
	ended = make(chan error, n)
	for range n {
		d.Request(c, wantOf("vms", "busy", m), o, func(_ api.Ref, err error) { started <- err },
			func(_ api.Grant, err error) { ended <- err })
	}
	for range n {
		require.NoError(t, <-started)
	}
	return ended
}

// The end of a connection with very many Requests is the work of many turns;
// what has come in meanwhile goes between.
func TestVanishingInSlices(t *testing.T) {
	for _, o := range []api.AcquireOptions{{}, {Lifetime: state.Connection}} {
		d := newHost(local.NewCluster("c").AddNode(1)).start(t)
		const n = 20 * sliceLength
		alice := user(7, ":1.7")
		ended := crowd(t, d, alice, n, dlm.EX, o)
		left := make(chan [2]int, 1)
		d.post(func() {
			var now [2]int
			d.choreTime = 0
			d.t.SessionGone(alice.Session)
			now[0] = waiting(d)
			d.post(func() { // in the next batch
				now[1] = waiting(d)
				left <- now
			})
		})
		now := <-left
		require.Equal(t, n-sliceLength, now[0], "a turn ends so many only")
		require.Equal(t, n-2*sliceLength, now[1], "another message goes between")
		for range n {
			require.ErrorIs(t, <-ended, api.Canceled)
		}
		require.Eventually(t, func() bool { return len(d.list(api.Filter{UID: 7, HasUID: true})) == 0 },
			time.Minute, time.Millisecond)
		d.stop()
		require.NoError(t, d.t.Check())
	}
}

// What is granted to a caller who is gone, while the rest of what he waits for
// is being withdrawn, is let go of, and nothing of it is written down.
func TestNothingIsGrantedToTheVanished(t *testing.T) {
	h := newHost(local.NewCluster("c").AddNode(1))
	d := h.start(t)
	defer d.stop()
	const n = 100 * sliceLength
	alice := user(7, ":1.7")
	ended := crowd(t, d, alice, n, dlm.PR, api.AcquireOptions{})
	written := map[uint32]bool{} // guarded by the journal's mutex
	h.journal.Mu.Lock()
	h.journal.OnDone = func() {
		for _, l := range h.journal.Locks {
			written[l.UID] = true
		}
	}
	h.journal.Mu.Unlock()
	released := make(chan error, 1)
	d.post(func() {
		d.choreTime = 0
		d.t.SessionGone(alice.Session)
		release := table.Release{Caller: root, Lockspace: "vms", Resource: "busy"}
		d.t.Submit(d.answers.add(&waitingCall{op: "release", done: errorTo(func(err error) { released <- err })}), release)
	})
	require.NoError(t, <-released)
	for range n {
		require.ErrorIs(t, <-ended, api.Canceled)
	}
	require.Eventually(t, func() bool { return len(d.list(api.Filter{})) == 0 }, time.Minute, time.Millisecond)
	h.journal.Mu.Lock()
	require.NotContains(t, written, alice.UID)
	h.journal.Mu.Unlock()
	_, err := d.acquire(user(8, ":1.8"), "busy", dlm.EX, api.AcquireOptions{})
	require.NoError(t, err)
}

// The locks of a connection that has ended are released some in each turn.
func TestConnectionLocksEndInSlices(t *testing.T) {
	d := newHost(local.NewCluster("c").AddNode(1)).start(t)
	defer d.stop()
	const n = 10*sliceLength + 1
	alice := user(7, ":1.7")
	var many []api.Want
	for i := range n {
		many = append(many, wantOf("vms", fmt.Sprint(i), dlm.EX))
	}
	require.NoError(t, call1(func(done func(error)) {
		d.Acquire(alice, many, api.AcquireOptions{Lifetime: state.Connection}, func(_ []api.Grant, err error) { done(err) })
	}))
	releasing := make(chan int, 1)
	d.post(func() {
		d.t.SessionGone(alice.Session)
		_, locks, _ := d.t.Snapshot(10 * n)
		k := 0
		for _, l := range locks {
			if l.State == api.Releasing {
				k++
			}
		}
		releasing <- k
	})
	require.Equal(t, sliceLength, <-releasing)
	require.Eventually(t, func() bool { return len(d.list(api.Filter{})) == 0 }, time.Minute, time.Millisecond)
}

// A call of somebody with very many Requests looks at none of them.
func TestRequestsAreNotLookedThrough(t *testing.T) {
	d := newHost(local.NewCluster("c").AddNode(1)).start(t)
	alice := user(7, ":1.7")
	crowd(t, d, alice, 100, dlm.EX, api.AcquireOptions{})
	_, err := d.acquire(alice, "other", dlm.EX, api.AcquireOptions{})
	require.NoError(t, err)
	d.stop()
	require.NoError(t, d.t.Check())
}

// sliceLength is how many locks or calls of a chore the table ends in a turn.
const sliceLength = 32

// waiting is how many Requests wait.
func waiting(d *daemon) (n int) {
	_, _ = fmt.Sscanf(d.t.Needed(), "%d requests wait", &n)
	return n
}

// What comes in while a long listing is under way does not wait for its end.
func TestListingLetsOthersGoFirst(t *testing.T) {
	node := local.NewCluster("c").AddNode(1)
	d := newHost(node).start(t)
	defer d.stop()
	d.fill(t, 20_000)
	var order []string // written by the owner
	ended := make(chan struct{})
	d.post(func() {
		d.choreTime = 0 // a part between two looks at what has come in
		for i := range 3 {
			d.List(api.Filter{UID: 9, HasUID: true}, func(api.Page, error) {
				order = append(order, "listed")
				if i == 2 {
					close(ended)
				}
			})
		}
		d.Lockspaces(func([]api.LockspaceInfo, error) {
			order = append(order, "lockspaces")
			d.Lockspaces(func([]api.LockspaceInfo, error) { order = append(order, "again") })
		})
	})
	<-ended
	require.Equal(t, []string{"lockspaces", "again", "listed", "listed", "listed"}, order)
}
