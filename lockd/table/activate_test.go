package table

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// More locks than may be adopted at a time are adopted all the same, shared ones too. Locks that
// somebody has unlocked are lost, and no resource is forgotten for that.
func TestAdoptionIsDoneInParts(t *testing.T) {
	s, _ := simWith(t, "vms")
	s.limits.LocksPerUID = 1_000_000
	s.restart()
	const n = 3*maxAdoptions + 7
	var wants []api.Want
	for i := range n {
		wants = append(wants, wantOf("vms", fmt.Sprintf("disk-%d", i), dlm.PR))
	}
	for len(wants) > 0 {
		part := wants[:min(len(wants), 100)]
		wants = wants[len(part):]
		for _, owner := range []string{"vm1", "vm2"} {
			require.NoError(t, s.done(s.acquire(root, api.AcquireOptions{Owner: owner, HasOwner: true}, part...)))
		}
	}
	lost := map[string]int{}
	s.onLost = func(l api.Lost) { lost[l.Resource]++ }
	s.kill()
	p := strange(t, s.node, "vms")
	for i := 0; i < n; i += maxAdoptions / 3 {
		name := fmt.Sprintf("disk-%d", i)
		for range 2 {
			p.space.Adopt(p.cookie+1, name, dlm.PR, dlm.Persistent)
			p.cookie++
			p.space.Unlock(p.cookie, nil)
		}
	}
	p.end()
	s.start()
	most := 0
	for s.deliver() || s.write() || s.toil(0) {
		most = max(most, len(s.tab.spaces.byName["vms"].records.adoptions))
	}
	require.Equal(t, maxAdoptions, most)
	require.Len(t, lost, 1+(n-1)/(maxAdoptions/3))
	for name, times := range lost {
		require.Equal(t, 2, times, name)
	}
	require.Equal(t, api.SpaceReady, s.tab.spaces.byName["vms"].public())
	require.Equal(t, 2*(n-len(lost)), s.tab.Status().Locks)
	for l := range s.tab.locks.all {
		require.Equal(t, lockHeld, l.state)
		require.Equal(t, state.Held, l.phase)
	}
	require.Nil(t, s.tab.spaces.byName["vms"].records.oldest)
}

// The locks of a session share the memory of its name, which is put together from two fields of the
// record.
func TestRecordedLocksShareTheNameOfTheirSession(t *testing.T) {
	tab, _ := newTestTable()
	c := state.Contents{NextID: 5}
	for id := range uint64(4) {
		c.Locks = append(c.Locks, state.Lock{ID: id + 1, Lockspace: "vms", Resource: fmt.Sprint(id), Mode: dlm.EX,
			Phase: state.Held, Session: fmt.Sprintf(":1.%d", id/2), SessionBus: "bus"})
	}
	c.Spaces = []state.Lockspace{{Name: "vms", Phase: state.Joined, AnchorID: 1}}
	tab.Activate(c, true, nil)
	names := map[*byte]api.Session{}
	for l := range tab.locks.all {
		names[unsafe.StringData(string(l.session))] = l.session
	}
	require.ElementsMatch(t, []api.Session{"dbus:bus/:1.0", "dbus:bus/:1.1"}, slices.Collect(maps.Values(names)))
}

// The records of a resource are adopted even if the lock by which the adoption finds them has ended
// before.
func TestAdoptionFindsTheLocksThatAreLeft(t *testing.T) {
	tab, sp := newTestTable()
	sp.state = spaceAdopting
	first := addHeld(tab, sp, "disk", 0, "vm1")
	second, third := addHeld(tab, sp, "disk", 0, "vm2"), addHeld(tab, sp, "disk", 0, "vm3")
	alone := addHeld(tab, sp, "disk2", 0, "vm1")
	second.state, third.state = lockRecorded, lockRecorded
	x := &sp.records
	x.oldest = []*lock{first, alone}
	first.remove()
	alone.remove()
	x.goOn()
	require.Equal(t, []Action{AdoptAction{Lockspace: sp.id, Cookie: dlm.Cookie(second.ref), Resource: "disk",
		Mode: dlm.NL}}, tab.EndTurn(nil))
	require.Equal(t, []*lock{second, third}, x.adoptions[dlm.Cookie(second.ref)].left)
	require.Empty(t, x.oldest)
}
