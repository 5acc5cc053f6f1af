package table

import (
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// spaceStep is how far joining or activating a lockspace has got.
type spaceStep uint8

const (
	spaceIdle spaceStep = iota
	spaceOpening
	spaceCreating
	spaceAdoptingAnchor   // is the lockspace still the one that we joined?
	spaceMakingAnchor     // Lock of the anchor, without PERSISTENT
	spacePersistingAnchor // the conversion in place
	spaceRecordingAnchor
	spaceTakingOver // the anchor of an instance whose state file is lost
	spaceAdopting   // the records
	spaceLooking    // who else is in it, and what else
	spaceRemoving
)

// lockspace is one lockspace of this instance.
type lockspace struct {
	t         *Table
	id        LockspaceID
	name      string
	raw       bool // the value blocks are the clients'
	state     api.SpaceState
	step      spaceStep
	open      bool       // there is a handle
	err       *api.Error // SpaceFailed: why
	health    dlm.Health
	hasHealth bool
	waiting   []*call // joins and leaves to answer

	byResource map[string]*lock // head of the resource's locks
	locks      int
	waiters    int          // requests for locks that wait in the lock manager's queues
	highToken  uint64       // the highest token that this instance has seen here
	contended  []contention // of whom it is being found out who waits for them
	clock      spaceClock

	membership
	leaving
	anchor anchor
	adopting
}

// membership is how the lockspace came to be here, and how it goes on.
type membership struct {
	configured bool             // named in the configuration, and not left since
	recorded   state.SpacePhase // what the state file says; 0: nothing
	proven     bool             // it is ours: made through the handle, or the handle holds the anchor
	mapLost    bool             // taken over: orphans are this service's, and no record explains them
	stillborn  bool             // closed before the opening was known to have ended
	settling   bool             // counts in Table.settling
	attempt    int              // counts the handles that were closed
	retryAt    time.Time        // zero: nothing is tried again
	backoff    time.Duration
}

// leaving is the leave under way.
type leaving struct {
	force         bool           // it may lose locks
	from          api.SpaceState // what the lockspace was when it began; 0: not open
	wasConfigured bool           // configured, then
	gone          bool           // the handle has ended meanwhile
}

// anchor is the lock by which a later start knows the lockspace again.
type anchor struct {
	name   string
	cookie dlm.Cookie
	id     dlm.LockID   // 0: there is none
	old    []dlm.Cookie // anchors of earlier instances that are held now
}

// adopting is what becomes of the orphans.
type adopting struct {
	adoptions map[dlm.Cookie]*adoption       // of records
	others    map[dlm.Cookie]func(dlm.Event) // for a Purge, an AdoptOrphan or a takeover
	unknown   map[dlm.LockID]*lock           // orphans that no record explains, adopted
	orphans   int                            // how many no record explains; -1: not known
	unadopted *api.Error                     // why a record could not be adopted this time
	stronger  []*lock                        // adopted in a mode that gives them a new token, which they do not have yet
}

func (sp *lockspace) stopped() bool { return sp.hasHealth && sp.health.Stopped }

func (sp *lockspace) record() state.Lockspace {
	return state.Lockspace{Name: sp.name, Phase: sp.recorded, AnchorID: sp.anchor.id}
}

// space returns the lockspace's entry, made if need be.
func (t *Table) space(name string) *lockspace {
	sp := t.spaces[name]
	if sp == nil {
		t.lastSpace++
		sp = &lockspace{t: t, id: t.lastSpace, name: name, raw: slices.Contains(t.conf.RawValues, name),
			byResource: map[string]*lock{}, anchor: anchor{name: api.AnchorName(t.conf.Instance)},
			adopting: adopting{adoptions: map[dlm.Cookie]*adoption{}, others: map[dlm.Cookie]func(dlm.Event){},
				unknown: map[dlm.LockID]*lock{}, orphans: -1}}
		t.spaces[name], t.byID[sp.id] = sp, sp
	}
	return sp
}

// writePhase writes down how far the membership has got. then is not called
// if the attempt to join has failed meanwhile.
func (sp *lockspace) writePhase(must bool, then func(error)) {
	attempt := sp.attempt
	sp.t.append(must, []state.Change{sp.record()}, writerFunc(func(err error) {
		if sp.attempt == attempt {
			then(err)
		}
	}))
}
