package table

import (
	"log/slog"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// spaceState is what the table is doing with a lockspace. doc.go draws how one state
// follows another.
type spaceState uint8

const (
	// spaceNew: its name is known, and nothing was done yet. It lasts for no longer
	// than the turn in which the name comes up.
	spaceNew spaceState = iota
	// spaceOpening: OpenAction is in flight.
	spaceOpening
	// spaceClaiming: "creating" is being written.
	spaceClaiming
	// spaceCreating: CreateAction is in flight.
	spaceCreating
	// spaceProving: our anchor is being adopted, which proves that the lockspace is
	// the one that we made.
	spaceProving
	// spaceExamining: our anchor is not there, and a look tells whose the lockspace is.
	spaceExamining
	// spaceTakingOver: the anchors of earlier instances are being adopted.
	spaceTakingOver
	// spaceReclaiming: one was, and "creating" is being written.
	spaceReclaiming
	// spaceAnchoring: the anchor is being made and written down (anchorState).
	spaceAnchoring
	// spaceAdopting: the recorded locks are being adopted.
	spaceAdopting
	// spaceReady: it can be used, and nothing is under way.
	spaceReady
	// spaceReanchoring: it can be used, and the anchor is being made again.
	spaceReanchoring
	// spaceChecking: a leave is asked for, and a look tells whether that may be. The
	// lockspace is as usable as it was.
	spaceChecking
	// spaceLeaving: "leaving" is being written.
	spaceLeaving
	// spaceLeavingUnopened: the same, without a handle. Then it is opened.
	spaceLeavingUnopened
	// spaceRechecking: a leave that is written down goes on, with a look.
	spaceRechecking
	// spaceRemoving: RemoveAction is in flight.
	spaceRemoving
	// spaceClosed: the handle was closed in this turn, and it is being decided how to
	// go on. No turn ends in this state.
	spaceClosed
	// spaceLeft: "left" is being written.
	spaceLeft
	// spaceFailed: it can't be used, and there is no handle; lockspace.err says why.
	spaceFailed
	// spaceStalled: it can't be used as it is, because a record could not be adopted or
	// the lockspace not be removed. That is tried again with the handle that is open.
	spaceStalled
)

// spaceStates says of each state how front ends call it, whether there is a handle, and
// whether nothing is under way, so that something else may begin.
var spaceStates = [...]struct {
	public     api.SpaceState
	open, idle bool
}{
	spaceNew:             {api.SpaceJoining, false, true},
	spaceOpening:         {api.SpaceJoining, false, false},
	spaceClaiming:        {api.SpaceJoining, false, false},
	spaceCreating:        {api.SpaceJoining, false, false},
	spaceProving:         {api.SpaceJoining, true, false},
	spaceExamining:       {api.SpaceJoining, true, false},
	spaceTakingOver:      {api.SpaceJoining, true, false},
	spaceReclaiming:      {api.SpaceJoining, true, false},
	spaceAnchoring:       {api.SpaceJoining, true, false},
	spaceAdopting:        {api.SpaceJoining, true, false},
	spaceReady:           {api.SpaceReady, true, true},
	spaceReanchoring:     {api.SpaceReady, true, false},
	spaceChecking:        {0, true, false}, // as before: leave.from
	spaceLeaving:         {api.SpaceLeaving, true, false},
	spaceLeavingUnopened: {api.SpaceLeaving, false, false},
	spaceRechecking:      {api.SpaceLeaving, true, false},
	spaceRemoving:        {api.SpaceLeaving, true, false},
	spaceClosed:          {api.SpaceLeaving, false, false},
	spaceLeft:            {api.SpaceLeaving, false, false},
	spaceFailed:          {api.SpaceFailed, false, true},
	spaceStalled:         {api.SpaceFailed, true, true},
}

// open reports whether there is a handle in this state.
func (s spaceState) open() bool { return spaceStates[s].open }

// idle reports whether nothing is under way in this state.
func (s spaceState) idle() bool { return spaceStates[s].idle }

// lockspace is one lockspace of this instance.
type lockspace struct {
	// The table that it is part of. It speaks and asks through it.
	t *Table
	// Its number in actions and events.
	id LockspaceID
	// As the kernel has it.
	name string
	raw  bool // the value blocks are the clients', and there are no tokens
	// What is being done with it; everything else here says what is known of it.
	state spaceState
	// gone: the lockspace went away while an operation was under way that has an end of
	// its own (Open, Create, Remove, the append of "leaving"). That is dealt with when
	// the operation has ended, because the two may overtake each other.
	gone bool
	err  *api.Error // why it can't be used; spaceFailed and spaceStalled
	// attempt counts the handles that were closed. What was asked for before the last
	// of them does not count any more when it ends.
	attempt int
	// What was seen of the cluster's side of it: members, quorum, whether it is stopped.
	health health

	contents
	membership
	// The leave under way, or the last one.
	leave leaving
	// The lock that proves to the next start that the lockspace is ours.
	anchor anchor
	// The adoption of the recorded locks, in spaceAdopting.
	records adopting
	// The orphans in it that no record explains.
	orphans orphans
	// Holders who are still to be told that somebody waits for them.
	blocked blockedHolders
	// The lock that passes the token clock around among the nodes.
	clock spaceClock
}

// contents are the locks of a lockspace.
type contents struct {
	byResource map[string]*lock // the youngest lock of each resource, which begins its chain
	locks      int              // how many clients' locks the chains have together
	waiters    int              // requests for locks that wait in the lock manager's queues
	highToken  uint64           // the highest token that this instance has seen here
}

// health is what was seen of a lockspace last; known is false before the first look, and
// where the last one has failed.
type health struct {
	dlm.Health
	known bool
}

// membership is how the lockspace came to be here, and how it goes on.
type membership struct {
	// configured: the configuration names it, and nobody has left it since. It is joined
	// again whatever happens to it.
	configured bool
	// recorded is what the state file says; 0: it does not mention the lockspace.
	recorded state.SpacePhase
	// waiting are the Joins and Leaves to be answered when the lockspace is idle again.
	waiting []*call
	retryAt time.Time     // zero: nothing is tried again
	backoff time.Duration // how long it is until the next attempt but one
}

// public is the state in the words of front ends.
func (sp *lockspace) public() api.SpaceState {
	if sp.state == spaceChecking {
		return spaceStates[sp.leave.from].public
	}
	return spaceStates[sp.state].public
}

// ready reports whether locks can be asked for.
func (sp *lockspace) ready() bool { return sp.public() == api.SpaceReady }

// open reports whether there is a handle.
func (sp *lockspace) open() bool { return sp.state.open() }

// stopped reports whether the lock manager grants nothing here at present.
func (sp *lockspace) stopped() bool { return sp.health.known && sp.health.Stopped }

// record returns the state file's record of the lockspace.
func (sp *lockspace) record() state.Lockspace {
	return state.Lockspace{Name: sp.name, Phase: sp.recorded, AnchorID: sp.anchor.id}
}

// info describes the lockspace for front ends.
func (sp *lockspace) info() api.LockspaceInfo {
	i := api.LockspaceInfo{Name: sp.name, State: sp.public(), Locks: sp.locks, Orphans: sp.orphans.unexplained,
		Waiting: sp.waiters, Health: sp.health.Health, HasHealth: sp.health.known, RawValues: sp.raw}
	if sp.err != nil {
		i.Error = sp.err.Text
	}
	return i
}

// changed tells front ends what the lockspace is now.
func (sp *lockspace) changed() {
	sp.t.do(NotifyAction{api.LockspaceChanged{LockspaceInfo: sp.info()}})
}

// spaces are the lockspaces that the table knows, by name and by number.
type spaces struct {
	byName map[string]*lockspace
	byID   map[LockspaceID]*lockspace
	// The number of the youngest lockspace.
	last LockspaceID
	// settling are those whose activation has not ended. The service is ready when there
	// is none left.
	settling map[*lockspace]struct{}
}

func newSpaces() spaces {
	return spaces{byName: map[string]*lockspace{}, byID: map[LockspaceID]*lockspace{},
		settling: map[*lockspace]struct{}{}}
}

// LockspaceNames are the names of the lockspaces that the table knows, sorted.
func (x *spaces) LockspaceNames() []string {
	names := make([]string, 0, len(x.byName))
	for n := range x.byName {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Lockspaces describes the lockspaces by name.
func (x *spaces) Lockspaces() []api.LockspaceInfo {
	out := make([]api.LockspaceInfo, 0, len(x.byName))
	for _, n := range x.LockspaceNames() {
		out = append(out, x.byName[n].info())
	}
	return out
}

// space returns the lockspace's entry, made if need be.
func (t *Table) space(name string) *lockspace {
	sp := t.spaces.byName[name]
	if sp == nil {
		t.spaces.last++
		sp = &lockspace{t: t, id: t.spaces.last, name: name, raw: slices.Contains(t.conf.RawValues, name),
			contents: contents{byResource: map[string]*lock{}}}
		sp.anchor = anchor{sp: sp, name: api.AnchorName(t.conf.Instance)}
		sp.records = adopting{sp: sp, adoptions: map[dlm.Cookie]*adoption{}}
		sp.orphans = newOrphans(sp)
		sp.blocked.sp = sp
		sp.clock.sp = sp
		t.spaces.byName[name], t.spaces.byID[sp.id] = sp, sp
	}
	return sp
}

// SetHealth takes what was seen of a lockspace; ok is false where it could not be
// looked at.
func (t *Table) SetHealth(name string, h dlm.Health, ok bool) {
	sp := t.spaces.byName[name]
	if sp == nil || !sp.ready() {
		return
	}
	was := sp.health
	same := was.known == ok && was.Stopped == h.Stopped && was.Quorate == h.Quorate &&
		was.Known == h.Known && was.Reason == h.Reason && slices.Equal(was.Members, h.Members)
	if !slices.Equal(was.Members, h.Members) {
		sp.clock.beginAgain()
	}
	sp.health = health{h, ok}
	sp.clock.sync()
	if same {
		return
	}
	if sp.stopped() {
		t.log(slog.LevelWarn, msgLockspaceStopped.String(), slog.String("lockspace", sp.name), slog.String("err", h.Reason))
	}
	sp.changed()
}

// writePhase has written down how far the membership has got. phaseWritten takes the
// outcome, unless the handle was closed meanwhile.
func (sp *lockspace) writePhase(must bool) {
	sp.t.append(must, []state.Change{sp.record()}, phaseWrite{sp, sp.attempt})
}

// phaseWrite is the append of a lockspace's record that is under way.
type phaseWrite struct {
	sp      *lockspace
	attempt int
}

// written is dropped if the handle was closed since: then it is being decided anew what the
// lockspace is, and a later write says so.
func (w phaseWrite) written(err error) {
	if w.attempt == w.sp.attempt {
		w.sp.phaseWritten(err)
	}
}

// phaseWritten goes on when the record of the lockspace is written, or could not be.
func (sp *lockspace) phaseWritten(err error) {
	switch sp.state {
	case spaceClaiming:
		sp.claimed(err)
	case spaceReclaiming:
		sp.anchor.make()
	case spaceAnchoring, spaceReanchoring:
		sp.anchor.recorded()
	case spaceLeaving:
		sp.leavingWritten(err)
	case spaceLeavingUnopened:
		sp.leavingUnopenedWritten(err)
	case spaceLeft:
		sp.hasLeft()
	}
}

// lookInto looks who else is in the lockspace and which orphans it has. lookedInto takes
// what was found, unless the handle was closed meanwhile.
func (sp *lockspace) lookInto() {
	sp.t.look(sp, Question{Users: true}, spaceLook{sp, sp.attempt})
}

// spaceLook is the look into a lockspace that is under way.
type spaceLook struct {
	sp      *lockspace
	attempt int
}

// looked goes on by the state, like phaseWritten. What a look has found through an earlier
// handle is of no use any more.
func (k spaceLook) looked(found Looked) {
	if k.attempt != k.sp.attempt {
		return
	}
	switch k.sp.state {
	case spaceExamining:
		k.sp.examined(found)
	case spaceChecking:
		k.sp.checked(found)
	case spaceRechecking:
		k.sp.rechecked(found)
	}
}
