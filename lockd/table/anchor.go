package table

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// Who owns a lockspace? The service touches only what it has made. One of two things
// proves that it has made a lockspace: the handle that is open now made it, which the
// kernel lets only one process do (DLM_LSFL_NEWEXCL), or the handle holds the anchor,
// a persistent lock with the name of this instance. A record alone is no proof: the
// lockspace may have been left, and made again by somebody else under the same name.
// Where the device is there, this is what becomes of the lockspace at a start:
//
//	record    anchor  what else is in it               decision
//	any       ours    -                                ours: as recorded; "leaving" goes on
//	any       no      an orphan anchor of another      ours, and the map is lost: it is taken
//	                  instance                         over, and its locks are listed as orphans
//	joined    no      a recorded lock, and nobody      ours: somebody removed only the anchor,
//	                                                   which is made again
//	joined    no      a recorded lock, and somebody    not usable; tried again
//	joined    no      no recorded lock                 its locks are lost, and it is foreign
//	creating  no      nobody and nothing               ours: the last start died between making it
//	                                                   and its anchor
//	creating  no      somebody, or orphans             foreign
//	leaving   no      a recorded lock, and nobody      ours: the leave goes on
//	leaving   no      anything else                    its locks are lost, and it is not touched
//	none      no      anything                         foreign
//
// "No" means that the kernel says there is no orphan of that name; after any other
// failure the service tries again. So it does after a look that fails, unless debugfs
// does not exist at all: then no orphans are seen, and nothing is taken over. A
// foreign lockspace is opened only for that look and never removed, and a leave only
// forgets it.
//
// Taking over, and what a crash between two lines leaves:
//
//	takeOver      Adopt the old anchor         the old anchor, as before
//	              append "creating"            the same, and the next start goes on here
//	makeAnchor    Lock, Convert PERSISTENT     both anchors: ours is found first
//	recordAnchor  append "joined"              the same
//	              Unlock the old anchor        its name is no lock of anybody: it is not listed

// makeAnchor takes the lock by which a later start knows that the lockspace is
// still the same: in two steps, as every persistent lock.
func (t *Table) makeAnchor(sp *space) {
	sp.step = spaceMakingAnchor
	sp.anchorCk = dlm.Cookie(t.ref())
	t.do(LockAction{Lockspace: sp.id, Cookie: sp.anchorCk, Resource: sp.anchorName, Mode: dlm.NL, Flags: dlm.NoQueue})
}

// anchorEvent takes the events of the anchor.
func (t *Table) anchorEvent(sp *space, ev dlm.Event) {
	switch {
	case ev.Op == dlm.OpUnlock: // of one that could not be made persistent
	case ev.Kind == dlm.Ended:
		t.anchorEnded(sp)
	case sp.step == spaceAdoptingAnchor:
		t.anchorAdopted(sp, ev)
	case !ev.Status.OK() && sp.state == api.SpaceReady:
		t.log(slog.LevelError, "the anchor of the lockspace could not be taken again", slog.String("lockspace", sp.name), slog.String("err", ev.Status.String()))
		if sp.step == spacePersistingAnchor {
			t.do(UnlockAction{Lockspace: sp.id, Cookie: sp.anchorCk})
		}
		sp.step, sp.anchor, sp.retryAt = spaceIdle, 0, t.now.Add(retryMax)
	case !ev.Status.OK():
		t.failSpace(sp, &api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Errno: ev.Status.Errno(),
			Text: "the anchor lock of the lockspace could not be taken: " + ev.Status.String()}, true)
	case sp.step == spaceMakingAnchor:
		sp.step, sp.anchor = spacePersistingAnchor, ev.LockID
		t.do(ConvertAction{Lockspace: sp.id, Cookie: sp.anchorCk, Mode: dlm.NL, Flags: dlm.Persistent})
	case sp.step == spacePersistingAnchor:
		t.recordAnchor(sp)
	}
}

// anchorEnded takes the news that another process removed the anchor. The locks
// are as good as before, but the next start would take them for void, so
// another one is made as soon as nothing else is under way.
func (t *Table) anchorEnded(sp *space) {
	if sp.step == spaceMakingAnchor || sp.step == spacePersistingAnchor {
		return // the operation under way ends badly
	}
	t.log(slog.LevelError, "somebody else removed the anchor of the lockspace", slog.String("lockspace", sp.name))
	sp.anchor = 0
	if sp.state == api.SpaceReady && sp.step == spaceIdle {
		t.makeAnchor(sp)
	}
}

func (t *Table) recordAnchor(sp *space) {
	sp.step, sp.recorded = spaceRecordingAnchor, state.Joined
	t.recordSpace(sp, true, func(error) {
		switch {
		case sp.anchor == 0:
			t.makeAnchor(sp)
			return
		case sp.state == api.SpaceReady:
			sp.step = spaceIdle
		default:
			t.adoptAll(sp)
		}
		for _, ck := range sp.oldAnchors {
			t.do(UnlockAction{Lockspace: sp.id, Cookie: ck})
		}
		sp.oldAnchors = nil
	})
}

// anchorAdopted takes the answer of the lock manager whether our anchor is there.
func (t *Table) anchorAdopted(sp *space, ev dlm.Event) {
	sp.proven = ev.Status.OK()
	switch {
	case ev.Status.OK() && sp.recorded == state.Leaving:
		t.finishLeave(sp)
	case ev.Status.OK() && sp.recorded == state.Joined:
		if ev.LockID != sp.anchor {
			t.log(slog.LevelWarn, "anchor has another lockid than recorded", slog.String("lockspace", sp.name), slog.Uint64("lkid", uint64(ev.LockID)))
		}
		sp.anchor = ev.LockID
		t.adoptAll(sp)
	case ev.Status.OK(): // made, and not yet written down
		sp.anchor = ev.LockID
		t.recordAnchor(sp)
	case ev.Status != dlm.StatusNotFound && ev.Status != dlm.StatusAgain:
		t.failSpace(sp, &api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Errno: ev.Status.Errno(),
			Text: "the anchor lock could not be adopted: " + ev.Status.String()}, true)
	default:
		t.lookInto(sp, func(k Looked) { t.unanchored(sp, k) })
	}
}

// lookInto looks who else is in the lockspace and which orphans are. then is not
// called if the lockspace went away meanwhile.
func (t *Table) lookInto(sp *space, then func(Looked)) {
	gen := sp.gen
	sp.step = spaceLooking
	t.look(sp, Question{Users: true}, func(k Looked) {
		if sp.gen == gen && sp.step == spaceLooking {
			then(k)
		}
	})
}

// unanchored decides what a lockspace is that exists and has no anchor of ours.
func (t *Table) unanchored(sp *space, k Looked) {
	switch found := sp.recordedIn(k.Orphans); {
	case !k.HasOrphans && !errors.Is(k.OrphansErr, errNoTables):
		t.failSpace(sp, unseen(sp, "which locks are in it", k.OrphansErr), true)
	case k.UsersErr != nil && (found || sp.recorded == state.Creating):
		t.failSpace(sp, unseen(sp, "whether another process uses it", k.UsersErr), true)
	case found && len(k.Users) > 0:
		t.failSpace(sp, &api.Error{Op: "join", Lockspace: sp.name, Kind: api.LockspaceInUse, Text: "somebody removed the anchor of the lockspace, and " +
			usersText(k.Users) + "; stop what uses it first"}, true)
	case found:
		t.log(slog.LevelError, "somebody else removed the anchor of the lockspace", slog.String("lockspace", sp.name))
		sp.proven, sp.anchor = true, 0
		t.goOn(sp)
	default:
		t.takeOver(sp, slices.DeleteFunc(slices.Clone(k.Orphans), func(o dlm.Orphan) bool { return !isAnchor(o.Resource) || o.Mode != dlm.NL }), k)
	}
}

// goOn goes on with a lockspace that has turned out to be ours without its anchor.
func (t *Table) goOn(sp *space) {
	if sp.recorded == state.Leaving {
		t.finishLeave(sp)
		return
	}
	t.makeAnchor(sp)
}

// recordedIn tells whether one of the orphans is a recorded lock.
func (sp *space) recordedIn(orphans []dlm.Orphan) bool {
	return slices.ContainsFunc(orphans, func(o dlm.Orphan) bool {
		for l := sp.byResource[o.Resource]; l != nil; l = l.nextRes {
			if l.lockid == o.LockID && l.mode == o.Mode {
				return true
			}
		}
		return false
	})
}

// isAnchor tells whether a resource is the anchor of an instance, whichever.
func isAnchor(resource string) bool { return strings.HasPrefix(resource, api.AnchorName("")) }

// takeOver adopts the anchors of earlier instances, whose state files are lost. That
// of an instance that runs is no orphan, and so can't be adopted.
func (t *Table) takeOver(sp *space, left []dlm.Orphan, k Looked) {
	switch {
	case len(left) > 0:
	case !sp.proven:
		t.unclaimed(sp, k)
		return
	default:
		t.tookOver(sp)
		return
	}
	sp.step = spaceTakingOver
	gen, ck := sp.gen, dlm.Cookie(t.ref())
	sp.purges[ck] = func(ev dlm.Event) {
		switch {
		case sp.gen != gen:
			return
		case ev.Status.OK():
			sp.proven = true
			sp.oldAnchors = append(sp.oldAnchors, ck)
		case ev.Status != dlm.StatusNotFound && ev.Status != dlm.StatusAgain:
			t.failSpace(sp, &api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Errno: ev.Status.Errno(),
				Text: "the anchor lock of an earlier instance could not be adopted: " + ev.Status.String()}, true)
			return
		}
		t.takeOver(sp, left[1:], k)
	}
	t.do(AdoptAction{Lockspace: sp.id, Cookie: ck, Resource: left[0].Resource, Mode: dlm.NL})
}

// tookOver goes on with a lockspace of the service whose map is lost.
func (t *Table) tookOver(sp *space) {
	t.log(slog.LevelError, "the lockspace belongs to this service, but the state file that says who holds its locks is lost", slog.String("lockspace", sp.name))
	sp.mapLost = true
	t.voidAll(sp, "another instance of the service has made the lockspace again since the lock was taken")
	if sp.recorded == state.Leaving {
		t.finishLeave(sp)
		return
	}
	sp.recorded, sp.anchor = state.Creating, 0
	t.recordSpace(sp, true, func(error) { t.makeAnchor(sp) })
}

// unclaimed decides about a lockspace that no instance of the service has an anchor
// in.
func (t *Table) unclaimed(sp *space, k Looked) {
	switch {
	case sp.recorded == state.Creating && len(k.Users) == 0 && len(k.Orphans) == 0:
		sp.proven = true
		t.makeAnchor(sp)
	case sp.recorded == state.Leaving:
		t.log(slog.LevelWarn, "another program has made the lockspace again; it is not touched", slog.String("lockspace", sp.name))
		t.left(sp, "the lockspace was left and made again by somebody else since the lock was taken")
	default:
		if sp.recorded == state.Joined {
			t.log(slog.LevelWarn, "lockspace was left and joined again, recorded locks in it are void", slog.String("lockspace", sp.name), slog.Int("locks", sp.locks))
			t.voidAll(sp, "the lockspace was left and joined again since the lock was taken")
		}
		t.foreign(sp, k)
	}
}

// foreign refuses a lockspace that exists and is not ours: any process that
// can open a lockspace can unlock everything in it, so sharing one with lvm or
// a file system is never right.
func (t *Table) foreign(sp *space, k Looked) {
	e := &api.Error{Op: "join", Lockspace: sp.name, Kind: api.LockspaceForeign,
		Text: "the lockspace exists on this node and was not made by this service, so it is left alone; choose another name, or leave it with dlm_tool leave if nobody uses it"}
	switch {
	case len(k.Users) > 0:
		e.Text += " (" + usersText(k.Users) + ")"
	case k.OrphansErr != nil:
		e.Text += " (if this service made it and has lost its state file, only debugfs can show that: mount debugfs at /sys/kernel/debug, then join again)"
	}
	if sp.recorded != 0 {
		t.notMade(sp)
		sp.anchor = 0
	}
	t.failSpace(sp, e, false)
}

// unseen is why a lockspace is not used as long as something can't be looked at.
func unseen(sp *space, what string, err error) *api.Error {
	return &api.Error{Op: "join", Lockspace: sp.name, Kind: api.LockspaceInUse, Err: err,
		Text: fmt.Sprintf("the anchor of the lockspace is missing, and the service can't tell %s: %v", what, err)}
}

// usersText names the processes that use a lockspace.
func usersText(users []dlm.User) string {
	var parts []string
	for i, u := range users {
		if i == maxUsersNamed {
			parts = append(parts, fmt.Sprintf("and %d more", len(users)-i))
			break
		}
		parts = append(parts, u.String())
	}
	return strings.Join(parts, ", ")
}

// maxUsersNamed is how many processes an error names.
const maxUsersNamed = 5
