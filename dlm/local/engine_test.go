package local_test

import (
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/dlmtest"
	"github.com/dlmlock/dlmlockd/dlm/local"
)

// open opens a lockspace with a recorder as its sink.
func open(t *testing.T, e *local.Engine, name string) (dlm.Lockspace, *dlmtest.Events) {
	t.Helper()
	events := dlmtest.NewEvents(5 * time.Second)
	ls, err := e.Open(t.Context(), name, events.Sink)
	if errors.Is(err, dlm.ErrNoLockspace) {
		ls, err = e.Create(t.Context(), name, events.Sink)
	}
	require.NoError(t, err)
	return ls, events
}

func TestNewIsOneNodeWithoutCluster(t *testing.T) {
	e := local.New("host")
	require.Equal(t, "local", e.Name())
	node, err := e.Node(t.Context())
	require.NoError(t, err)
	require.Equal(t, dlm.NodeInfo{ID: 1, Name: "host"}, node)
}

func TestRestorePutsOrphansBack(t *testing.T) {
	e := local.New("host")
	held := []dlm.Orphan{
		{LockID: 3, Resource: "shared", Mode: dlm.PR},
		{LockID: 9, Resource: "shared", Mode: dlm.PR},
		{LockID: 70_000, Resource: "disk\xff\x00", Mode: dlm.EX},
	}
	require.NoError(t, e.Restore("vms", held))
	found, err := e.Orphans(t.Context(), "vms")
	require.NoError(t, err)
	require.Equal(t, held, found)

	ls, events := open(t, e, "vms")
	defer ls.Close()
	for c, o := range held {
		ls.Adopt(dlm.Cookie(c+1), o.Resource, o.Mode, dlm.Persistent)
		require.Equal(t, o.LockID, events.Completed(t, dlm.Cookie(c+1)).LockID)
	}
	ls.Lock(10, "disk\xff\x00", dlm.CR, dlm.NoQueue)
	require.Equal(t, dlm.StatusAgain, events.Completed(t, 10).Status)
	var ids []dlm.LockID
	for c := dlm.Cookie(11); c <= 13; c++ {
		ls.Lock(c, fmt.Sprint("new", c), dlm.EX, 0)
		ids = append(ids, events.Completed(t, c).LockID)
	}
	require.Equal(t, []dlm.LockID{1, 2, 4}, ids, "the lowest ones that were not restored")
}

func TestRestoreRefusesWhatCanNotBe(t *testing.T) {
	tests := []struct {
		name  string
		bad   dlm.Orphan
		errno syscall.Errno
	}{
		{"a lockid twice", dlm.Orphan{LockID: 1, Resource: "other", Mode: dlm.NL}, syscall.EEXIST},
		{"a mode that conflicts", dlm.Orphan{LockID: 2, Resource: "disk", Mode: dlm.CR}, syscall.EDEADLK},
		{"lockid 0", dlm.Orphan{Resource: "other", Mode: dlm.NL}, syscall.EINVAL},
		{"a lockid that was never given out", dlm.Orphan{LockID: 1 << 31, Resource: "other", Mode: dlm.NL},
			syscall.EINVAL},
		{"no mode", dlm.Orphan{LockID: 2, Resource: "other", Mode: dlm.None}, syscall.EINVAL},
		{"no name", dlm.Orphan{LockID: 2, Mode: dlm.NL}, syscall.EINVAL},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := local.New("host")
			first := dlm.Orphan{LockID: 1, Resource: "disk", Mode: dlm.EX}
			last := dlm.Orphan{LockID: 2, Resource: "last", Mode: dlm.EX}
			err := e.Restore("vms", []dlm.Orphan{first, tt.bad, last})
			require.ErrorIs(t, err, tt.errno)
			failed, ok := errors.AsType[*dlm.Error](err)
			require.True(t, ok)
			require.Equal(t, tt.bad.Resource, failed.Resource)
			found, err := e.Orphans(t.Context(), "vms")
			require.NoError(t, err)
			require.Equal(t, []dlm.Orphan{first, last}, found, "the others are kept")
		})
	}
}

func TestRestoreChecksTheLockspaceName(t *testing.T) {
	require.ErrorIs(t, local.New("host").Restore("a/b", nil), dlm.ErrName)
}

// TestFail makes each kind of call fail once and checks that nothing changed.
func TestFail(t *testing.T) {
	cluster := local.NewCluster("test")
	e := cluster.AddNode(1).Engine()
	ls, events := open(t, e, "vms")
	ls.Lock(1, "disk", dlm.PR, 0)
	require.Equal(t, dlm.StatusOK, events.Completed(t, 1).Status)
	var seen []local.Attempt
	cluster.Fail(func(a local.Attempt) syscall.Errno {
		seen = append(seen, a)
		return syscall.EIO
	})
	ls.Lock(2, "other", dlm.EX, 0)
	ls.Adopt(3, "other", dlm.EX, 0)
	ls.Convert(1, dlm.EX, 0, nil)
	require.Equal(t, dlm.PR, events.Completed(t, 1).Mode)
	ls.Unlock(1, nil)
	require.Equal(t, dlm.Status(syscall.EIO), events.Completed(t, 1).Status)
	ls.Purge()
	for _, c := range []dlm.Cookie{2, 3, 0} {
		require.Equal(t, dlm.Status(syscall.EIO), events.Completed(t, c).Status)
	}
	require.ErrorIs(t, e.Remove(t.Context(), "vms"), syscall.EIO)
	require.Equal(t, []local.Attempt{
		{Node: 1, Op: "lock", Lockspace: "vms", Resource: "other", Mode: dlm.EX},
		{Node: 1, Op: "adopt", Lockspace: "vms", Resource: "other", Mode: dlm.EX},
		{Node: 1, Op: "convert", Lockspace: "vms", Resource: "disk", Mode: dlm.EX},
		{Node: 1, Op: "unlock", Lockspace: "vms", Resource: "disk", Mode: dlm.None},
		{Node: 1, Op: "purge", Lockspace: "vms", Mode: dlm.None},
		{Node: 1, Op: "remove", Lockspace: "vms", Mode: dlm.None},
	}, seen)

	cluster.Fail(nil)
	ls.Convert(1, dlm.EX, dlm.NoQueue, nil)
	require.Equal(t, dlm.StatusOK, events.Completed(t, 1).Status)
}

func TestFailAsIfThereWasNoCluster(t *testing.T) {
	cluster := local.NewCluster("test")
	e := cluster.AddNode(1).Engine()
	cluster.Fail(func(local.Attempt) syscall.Errno { return syscall.EUNATCH })
	_, err := e.Node(t.Context())
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
	require.ErrorIs(t, err, syscall.EUNATCH)
}

func TestHealth(t *testing.T) {
	cluster := local.NewCluster("test")
	e, other := cluster.AddNode(2).Engine(), cluster.AddNode(1).Engine()
	open(t, e, "vms")
	open(t, other, "vms")
	health := func() dlm.Health {
		h, err := e.Health(t.Context(), "vms")
		require.NoError(t, err)
		return h
	}
	require.Equal(t, dlm.Health{Quorate: true, Known: true, Members: []uint32{1, 2}}, health())
	cluster.Stop("vms", "wait quorum")
	cluster.SetQuorate(false)
	require.Equal(t, dlm.Health{Stopped: true, Known: true, Reason: "wait quorum", Members: []uint32{1, 2}}, health())
	cluster.Resume("vms")
	cluster.SetQuorate(true)
	require.Equal(t, dlm.Health{Quorate: true, Known: true, Members: []uint32{1, 2}}, health())
	_, err := e.Health(t.Context(), "missing")
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
}

func TestCrashedNodeIsGoneUntilItIsAddedAgain(t *testing.T) {
	cluster := local.NewCluster("test")
	node := cluster.AddNode(1)
	e := node.Engine()
	open(t, e, "vms")
	require.Panics(t, func() { cluster.AddNode(1) }, "it runs")
	node.Crash()
	_, err := e.Node(t.Context())
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
	again := cluster.AddNode(1).Engine()
	names, err := again.Lockspaces(t.Context())
	require.NoError(t, err)
	require.Empty(t, names)
}

// TestQueuesShowsWhatTheMasterKnows looks at one resource from two nodes.
func TestQueuesShowsWhatTheMasterKnows(t *testing.T) {
	cluster := local.NewCluster("test")
	master, other := cluster.AddNode(1).Engine(), cluster.AddNode(2).Engine()
	a, _ := open(t, master, "vms")
	b, _ := open(t, other, "vms")
	a.Lock(1, "disk", dlm.PR, 0)
	b.Lock(1, "disk", dlm.PR, 0)
	b.Convert(1, dlm.EX, 0, nil)
	a.Lock(2, "disk", dlm.CW, 0)

	q, err := master.Queues(t.Context(), "vms", "disk")
	require.NoError(t, err)
	require.Equal(t, dlm.Queues{
		Master: 1, Complete: true,
		Granted:    []dlm.Held{{LockID: 1, Node: 1, Mode: dlm.PR, Wanted: dlm.None}},
		Converting: []dlm.Held{{Node: 2, Mode: dlm.PR, Wanted: dlm.EX}},
		Waiting:    []dlm.Held{{LockID: 2, Node: 1, Mode: dlm.None, Wanted: dlm.CW}},
	}, q)

	q, err = other.Queues(t.Context(), "vms", "disk")
	require.NoError(t, err)
	require.False(t, q.Complete)
	require.NotEmpty(t, q.Missing)
	require.Empty(t, q.Granted)
	require.Equal(t, []dlm.Held{{LockID: 1, Node: 2, Mode: dlm.PR, Wanted: dlm.EX}}, q.Converting)

	_, err = master.Queues(t.Context(), "vms", "")
	require.ErrorIs(t, err, dlm.ErrName)
	_, err = master.Queues(t.Context(), "missing", "disk")
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
}

// TestNothingIsDeliveredAfterClose closes a handle while others make events
// for it.
func TestNothingIsDeliveredAfterClose(t *testing.T) {
	cluster := local.NewCluster("test")
	node := cluster.AddNode(1)
	busy, _ := open(t, node.Engine(), "vms")
	for range 200 {
		var mu sync.Mutex
		var closed, late bool
		ls, err := node.Engine().Open(t.Context(), "vms", func(dlm.Event) {
			mu.Lock()
			defer mu.Unlock()
			late = late || closed
		})
		require.NoError(t, err)
		ls.Lock(1, "disk", dlm.EX, 0)
		var other sync.WaitGroup
		for c := range dlm.Cookie(4) {
			other.Go(func() {
				busy.Lock(c+1, "disk", dlm.EX, dlm.NoQueue|dlm.NoQueueBlocking)
				busy.Unlock(c+1, nil)
			})
		}
		require.NoError(t, ls.Close())
		mu.Lock()
		closed = true
		mu.Unlock()
		other.Wait()
		require.False(t, late)
	}
}

// TestEventsStayInOrder has many callers cause events for one handle. Each lock must see its grant,
// then its notification, then its end.
func TestEventsStayInOrder(t *testing.T) {
	cluster := local.NewCluster("test")
	node := cluster.AddNode(1)
	holder, events := open(t, node.Engine(), "vms")
	const locks = 500
	var asking sync.WaitGroup
	for w := range 4 {
		ls, _ := open(t, node.Engine(), "vms")
		asking.Go(func() {
			for i := w; i < locks; i += 4 {
				c, name := dlm.Cookie(i+1), fmt.Sprint(i)
				holder.Lock(c, name, dlm.EX, 0)
				ls.Lock(c, name, dlm.EX, 0)
				holder.Unlock(c, nil)
			}
		})
	}
	asking.Wait()
	for c := dlm.Cookie(1); c <= locks; c++ {
		var kinds []dlm.EventKind
		for _, ev := range events.Untaken(c) {
			kinds = append(kinds, ev.Kind)
		}
		require.Equal(t, []dlm.EventKind{dlm.Completed, dlm.Blocking, dlm.Completed}, kinds)
	}
}

// TestADyingProcessGrantsNothingToItself: all locks of a process end before anything is granted, so
// a waiting request of its own can't become an orphan.
func TestADyingProcessGrantsNothingToItself(t *testing.T) {
	cluster := local.NewCluster("test")
	node := cluster.AddNode(1)
	dying, other := node.Engine(), node.Engine()
	a, _ := open(t, dying, "vms")
	b, events := open(t, other, "vms")
	a.Lock(1, "disk", dlm.EX, 0)
	a.Lock(2, "disk", dlm.EX, dlm.Persistent)
	b.Lock(1, "disk", dlm.EX, 0)
	dying.Kill()
	require.Equal(t, dlm.StatusOK, events.Completed(t, 1).Status)
	orphans, err := other.Orphans(t.Context(), "vms")
	require.NoError(t, err)
	require.Empty(t, orphans)
}
