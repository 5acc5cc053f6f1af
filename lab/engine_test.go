package lab_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/dlmtest"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/lan"
)

// engineStories are about what the rules of dlmtest leave to each engine. All
// share the cluster; each uses resources of its own.
var engineStories = []struct {
	name string
	tell func(*testing.T, *rig)
}{
	{"queues are seen from the master and from elsewhere", storyQueues},
	{"orphans are told from locks that processes have", storyOrphans},
	{"health", storyHealth},
	{"another program makes the node leave", storyLeave},
	{"the end of a process in a stopped lockspace", storyCloseStopped},
	{"killed while a conversion is under way to another node", storyKilledConverting},
	{"cancels that come too late", storyLateCancel},
	{"a storm of requests and cancels", storyStorm},
}

// user is a process with the shared lockspace open.
type user struct {
	*process
	t      *testing.T
	space  dlm.Lockspace
	events *dlmtest.Events
}

func (r *rig) user(t *testing.T, node int, lockspace string) *user {
	u := &user{process: r.start(t, node), t: t, events: dlmtest.NewEvents(r.Timing().Wait)}
	var err error
	u.space, err = u.Open(lab.Context(t, "open", time.Minute), lockspace, u.events.Sink)
	require.NoError(t, err)
	return u
}

// lock takes a lock and returns its lockid.
func (u *user) lock(c dlm.Cookie, name string, m dlm.Mode, f dlm.Flags) dlm.LockID {
	u.t.Helper()
	u.space.Lock(c, name, m, f)
	ev := u.events.Completed(u.t, c)
	require.Equal(u.t, dlm.StatusOK, ev.Status)
	return ev.LockID
}

// persist makes a lock persistent.
func (u *user) persist(c dlm.Cookie, m dlm.Mode, v *dlm.Value) {
	u.t.Helper()
	u.space.Convert(c, m, dlm.Persistent|dlm.ValueBlock, v)
	require.Equal(u.t, dlm.StatusOK, u.events.Completed(u.t, c).Status)
}

// withoutCluster runs before corosync and dlm_controld do.
func withoutCluster(t *testing.T, r *rig) {
	p := r.start(t, 0)
	defer p.Kill()
	ctx := lab.Context(t, "answers without a cluster", 30*time.Second)
	_, err := p.Node(ctx)
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)

	// The module and its device are there, dlm_controld is not.
	_, err = r.cluster.Nodes()[0].Shell(ctx,
		"modprobe dlm && mkdir -p /dev/misc && mknod /dev/misc/dlm-control c 10 $(awk '$2==\"dlm-control\"{print $1}' "+
			"/proc/misc)")
	require.NoError(t, err)
	_, err = p.Open(ctx, "early", func(dlm.Event) {})
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
	_, err = p.Create(ctx, "early", func(dlm.Event) {})
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
	require.ErrorContains(t, err, "dlm_controld is not running")
	names, err := p.Lockspaces(ctx)
	require.NoError(t, err)
	require.Empty(t, names)
	_, err = r.cluster.Nodes()[0].Shell(ctx, "rm /dev/misc/dlm-control")
	require.NoError(t, err)
}

func storyQueues(t *testing.T, r *rig) {
	a, b := r.user(t, 0, shared), r.user(t, 1, shared)
	defer a.Kill()
	defer b.Kill()
	const name = "queues \x01\xff"
	v := dlm.Value{1, 2, 3}
	keeper := a.lock(1, name, dlm.NL, 0) // makes node 1 the master
	held := a.lock(2, name, dlm.EX, 0)
	a.persist(2, dlm.EX, &v)
	b.space.Lock(1, name, dlm.PR, 0)
	a.events.Blocking(t, 2)

	ctx := lab.Context(t, "queues", time.Minute)
	q, err := a.Queues(ctx, shared, name)
	require.NoError(t, err)
	require.True(t, q.Complete)
	require.Equal(t, uint32(1), q.Master)
	require.ElementsMatch(t, []dlm.Held{
		{LockID: keeper, Node: 1, Mode: dlm.NL, Wanted: dlm.None},
		{LockID: held, Node: 1, Mode: dlm.EX, Wanted: dlm.None},
	}, q.Granted)
	require.Len(t, q.Waiting, 1)
	require.Equal(t, uint32(2), q.Waiting[0].Node)
	require.Equal(t, dlm.PR, q.Waiting[0].Wanted)
	require.True(t, q.HasValue)
	require.Equal(t, v, q.Value)
	require.Empty(t, q.Missing)

	q, err = b.Queues(ctx, shared, name)
	require.NoError(t, err)
	require.False(t, q.Complete)
	require.Equal(t, uint32(1), q.Master)
	require.Empty(t, q.Granted, "a lock of another node")
	require.Len(t, q.Waiting, 1)
	require.Equal(t, uint32(2), q.Waiting[0].Node)
	require.NotEmpty(t, q.Missing)

	a.space.Unlock(2, nil)
	ev := b.events.Completed(t, 1)
	require.Equal(t, dlm.StatusOK, ev.Status)
	q, err = b.Queues(ctx, shared, "nobody asked for this")
	require.NoError(t, err)
	require.NotEmpty(t, q.Missing)
}

func storyOrphans(t *testing.T, r *rig) {
	dead, alive, other := r.user(t, 0, shared), r.user(t, 0, shared), r.user(t, 1, shared)
	defer alive.Kill()
	defer other.Kill()
	orphan := dead.lock(1, "orphans-dead", dlm.PW, 0)
	dead.persist(1, dlm.PW, nil)
	dead.lock(2, "orphans-not-persistent", dlm.EX, 0)
	alive.lock(1, "orphans-alive", dlm.EX, 0)
	alive.persist(1, dlm.EX, nil)
	other.lock(1, "orphans-elsewhere", dlm.EX, 0)
	other.persist(1, dlm.EX, nil)
	dead.Kill()

	want := []dlm.Orphan{{LockID: orphan, Resource: "orphans-dead", Mode: dlm.PW}}
	ctx := lab.Context(t, "orphans", time.Minute)
	got, err := alive.Orphans(ctx, shared)
	require.NoError(t, err)
	require.Equal(t, want, got)

	third := r.user(t, 0, shared) // the lock of alive belongs to another process
	got, err = third.Orphans(ctx, shared)
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = other.Orphans(ctx, shared)
	require.NoError(t, err)
	require.Empty(t, got)

	third.space.Adopt(1, "orphans-dead", dlm.PW, dlm.Persistent)
	require.Equal(t, orphan, third.events.Completed(t, 1).LockID)
	got, err = third.Orphans(ctx, shared)
	require.NoError(t, err)
	require.Empty(t, got)
	third.space.Unlock(1, nil)
	third.events.Completed(t, 1)
	third.Kill()
	for _, u := range []*user{alive, other} {
		u.space.Unlock(1, nil)
		require.Equal(t, dlm.StatusUnlocked, u.events.Completed(t, 1).Status)
	}
}

func storyHealth(t *testing.T, r *rig) {
	ctx := lab.Context(t, "health", 2*time.Minute)
	var all []*user
	for i := range r.cluster.Nodes() {
		u := r.user(t, i, shared)
		defer u.Kill()
		all = append(all, u)
	}
	well := func(u *user) bool {
		h, err := u.Health(ctx, shared)
		require.NoError(t, err)
		require.True(t, h.Known)
		require.True(t, h.Quorate)
		require.Equal(t, []uint32{1, 2}, h.Members)
		return !h.Stopped && h.Reason == ""
	}
	for _, u := range all {
		require.True(t, well(u))
	}
	r.Stop(t, shared)
	for _, u := range all {
		h, err := u.Health(ctx, shared)
		require.NoError(t, err)
		require.True(t, h.Stopped)
		require.NotEmpty(t, h.Reason)
	}
	r.Resume(t, shared)
	for _, u := range all {
		require.Eventually(t, func() bool { return well(u) }, time.Minute, 100*time.Millisecond)
	}
	_, err := all[0].Health(ctx, "none")
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
}

// The kernel finishes only when every process has closed the device, so this
// also shows that the engine notices by itself.
func storyLeave(t *testing.T, r *rig) {
	ctx := lab.Context(t, "leaving", time.Minute)
	name := r.FreshLockspace(t)
	maker := r.start(t, 0)
	defer maker.Kill()
	events := dlmtest.NewEvents(r.Timing().Wait)
	space, err := maker.Create(ctx, name, events.Sink)
	require.NoError(t, err)
	space.Lock(1, "disk", dlm.EX, 0)
	require.Equal(t, dlm.StatusOK, events.Completed(t, 1).Status)
	_, err = r.cluster.Nodes()[0].Run(ctx, "dlm_tool", "leave", name)
	require.NoError(t, err)
	events.Wait(t, dlm.Closed, 0)
	_, err = maker.Open(ctx, name, events.Sink)
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
}

func storyCloseStopped(t *testing.T, r *rig) {
	u, watcher := r.user(t, 0, shared), r.user(t, 0, shared)
	defer watcher.Kill()
	u.lock(1, "close-stopped", dlm.EX, 0)
	r.Stop(t, shared)
	u.space.Lock(2, "close-stopped-2", dlm.EX, 0) // sleeps in the kernel
	began := time.Now()
	require.NoError(t, u.space.Close())
	require.Less(t, time.Since(began), 30*time.Second, "it does not wait for the lockspace")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := u.Node(ctx)
	require.NoError(t, err, "the process answers")
	r.Resume(t, shared)
	watcher.lock(1, "close-stopped", dlm.EX, 0)
	watcher.lock(2, "close-stopped-2", dlm.EX, 0)
	u.Kill()
}

// The kernel's answer to a conversion comes when the process that asked is dead:
// before its lock is adopted, after which 6.1 reports nothing of the lock any
// more (dlm/libdlm/completion.go), or after it. The lock can be released all the
// same, and others get it.
func storyKilledConverting(t *testing.T, r *rig) {
	master := r.user(t, 1, shared)
	defer master.Kill()
	for i, late := range []bool{false, false, true} {
		name := fmt.Sprintf("killed-converting-%d", i)
		master.lock(dlm.Cookie(2*i+1), name, dlm.NL, 0)
		dead := r.user(t, 0, shared)
		id := dead.lock(1, name, dlm.EX, 0)
		r.cluster.Net.SetLink(2, 1, lan.Link{Delay: answerDelay})
		dead.space.Convert(1, dlm.EX, dlm.Persistent|dlm.ValueBlock, &dlm.Value{1})
		r.sent(t, dead, name)
		dead.Kill()
		if late {
			r.adoptAfterKill(t, name, id, 0)
			r.cluster.Heal()
		} else {
			r.cluster.Heal()
			time.Sleep(answerDelay)
			r.adoptAfterKill(t, name, id, i)
		}
		master.lock(dlm.Cookie(2*i+2), name, dlm.EX, dlm.NoQueue)
	}
}

const answerDelay = 2 * time.Second

// sent waits until the kernel of node 1 has sent the user's request for a resource to the master, or
// even has the answer: if the process is killed before that, nothing was requested.
func (r *rig) sent(t *testing.T, u *user, name string) {
	t.Helper()
	ctx := lab.Context(t, "the kernel asks the master", time.Minute)
	for len(u.events.Untaken(1)) == 0 {
		waiters, err := r.cluster.Nodes()[0].Run(ctx, "cat", "/sys/kernel/debug/dlm/"+shared+"_waiters")
		require.NoError(t, err)
		if strings.Contains(waiters, " "+name+"\n") {
			return
		}
	}
}

// adoptAfterKill takes the lock over, and releases it, after a conversion in
// the second run.
func (r *rig) adoptAfterKill(t *testing.T, name string, id dlm.LockID, run int) {
	u := r.user(t, 0, shared)
	defer u.Kill()
	u.space.Adopt(1, name, dlm.EX, dlm.Persistent|dlm.ValueBlock)
	ev := u.events.Completed(t, 1)
	require.Equal(t, dlm.StatusOK, ev.Status)
	require.Equal(t, id, ev.LockID)
	if run == 1 {
		u.space.Convert(1, dlm.PR, dlm.Persistent|dlm.ValueBlock, nil)
		ev := u.events.Completed(t, 1)
		t.Logf("the conversion ended with %v", ev.Status)
		require.Contains(t, []dlm.Status{dlm.StatusOK, dlm.StatusCompletionLost}, ev.Status)
	}
	began := time.Now()
	u.space.Unlock(1, &dlm.Value{2})
	require.Equal(t, dlm.StatusUnlocked, u.events.Completed(t, 1).Status)
	t.Logf("released in %v", time.Since(began).Round(time.Millisecond))
}

// A conversion is granted while its cancel is on the way, and the next one is
// canceled while the answer to that cancel is on the way back. The kernel takes
// that for the answer to the second cancel and drops the result of the second
// conversion (dlm/libdlm/late.go). The engine does not let it come to that.
func storyLateCancel(t *testing.T, r *rig) {
	master, u := r.user(t, 1, shared), r.user(t, 0, shared)
	defer master.Kill()
	defer u.Kill()
	defer r.cluster.Heal()
	const name = "late-cancel"
	master.lock(1, name, dlm.NL, 0)
	u.lock(1, name, dlm.NL, 0)
	r.cluster.Net.SetLink(2, 1, lan.Link{Delay: answerDelay})
	u.space.Convert(1, dlm.PR, 0, nil)
	time.Sleep(answerDelay / 4 * 3)
	u.space.Cancel(1)
	require.Equal(t, dlm.StatusOK, u.events.Completed(t, 1).Status, "the cancel was too late")

	u.space.Convert(1, dlm.EX, 0, nil)
	time.Sleep(answerDelay / 8)
	u.space.Cancel(1)
	require.Contains(t, []dlm.Status{dlm.StatusOK, dlm.StatusCanceled}, u.events.Completed(t, 1).Status)
	u.space.Unlock(1, nil)
	require.Equal(t, dlm.StatusUnlocked, u.events.Completed(t, 1).Status)
}
