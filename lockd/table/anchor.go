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

// Which lockspaces are the service's? It touches only those that it has made. Two things
// prove that: the handle that is open now has made the lockspace, which the kernel lets
// only one process do (DLM_LSFL_NEWEXCL), or the handle holds the anchor, a persistent lock
// with the name of this instance. A record alone proves nothing: the lockspace may have been
// left since, and made again by somebody else under the same name. If the device of a
// lockspace exists at a start, the service decides as follows:
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
// "No" means that the kernel says that it has no orphan of that name. After any other
// failure the service tries again, and after a look that fails as well. If debugfs does not
// exist at all, it goes on as if there were no orphans and takes nothing over; but with a
// record "creating" it tries again even then, because somebody may have made the lockspace
// since. A foreign lockspace is opened only for that look. It is never removed; a leave only
// forgets it.
//
// Taking over, and what a crash between two lines leaves:
//
//	takeOver      Adopt the old anchor         the old anchor, as before
//	              append "creating"            the same, and the next start goes on here
//	anchor.make   Lock, Convert PERSISTENT     both anchors: ours is found first
//	anchor.record append "joined"              the same
//	              Unlock the old anchor        its name is no lock of anybody: it is not listed

// anchor is the lock by which a later start knows the lockspace again. It is made in two
// steps, as every persistent lock.
type anchor struct {
	sp     *lockspace
	state  anchorState
	name   string     // of its resource
	cookie dlm.Cookie // of the last operation that made or adopted it
	id     dlm.LockID // 0: the lockspace has none now
	// old are the anchors of earlier instances, which were taken over. They are released
	// when ours is written down.
	old []dlm.Cookie
}

// anchorState is how far making the anchor has got, in spaceAnchoring and
// spaceReanchoring.
type anchorState uint8

const (
	anchorIdle       anchorState = iota // nothing is under way
	anchorMaking                        // Lock, without PERSISTENT, is in flight
	anchorPersisting                    // Convert in place, PERSISTENT, is in flight
	anchorRecording                     // "joined" is being written
)

// make begins to make the anchor. A lockspace that can be used can be used meanwhile.
func (a *anchor) make() {
	sp := a.sp
	if again := sp.ready(); again {
		sp.state = spaceReanchoring
	} else {
		sp.state = spaceAnchoring
	}
	a.state, a.cookie = anchorMaking, dlm.Cookie(sp.t.locks.nextRef())
	sp.t.do(LockAction{Lockspace: sp.id, Cookie: a.cookie, Resource: a.name, Mode: dlm.NL, Flags: dlm.NoQueue})
}

// prove asks for the anchor that an earlier start has made.
func (a *anchor) prove() {
	sp := a.sp
	a.cookie = dlm.Cookie(sp.t.locks.nextRef())
	sp.t.do(AdoptAction{Lockspace: sp.id, Cookie: a.cookie, Resource: a.name, Mode: dlm.NL})
}

// forget forgets what belongs to a handle that is closed. The lockid stays: the next
// handle has to find the same anchor.
func (a *anchor) forget() { a.state, a.old = anchorIdle, nil }

// event takes the events of the anchor.
func (a *anchor) event(ev dlm.Event) {
	sp, t := a.sp, a.sp.t
	switch {
	case ev.Op == dlm.OpUnlock: // of one that could not be made persistent
	case ev.Kind == dlm.Ended:
		a.ended()
	case sp.state == spaceProving:
		a.adopted(ev)
	case !ev.Status.OK() && sp.ready():
		t.log(slog.LevelError, "the anchor of the lockspace could not be taken again",
			slog.String("lockspace", sp.name), slog.String("err", ev.Status.String()))
		if a.state == anchorPersisting {
			t.do(UnlockAction{Lockspace: sp.id, Cookie: a.cookie})
		}
		sp.state, a.state, a.id, sp.retryAt = spaceReady, anchorIdle, 0, t.now.Add(retryMax)
	case !ev.Status.OK():
		sp.fail(&api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Errno: ev.Status.Errno(),
			Text: "the anchor lock of the lockspace could not be taken: " + ev.Status.String()}, true)
	case a.state == anchorMaking:
		a.state, a.id = anchorPersisting, ev.LockID
		t.do(ConvertAction{Lockspace: sp.id, Cookie: a.cookie, Mode: dlm.NL, Flags: dlm.Persistent})
	case a.state == anchorPersisting:
		a.record()
	}
}

// ended takes the news that another process removed the anchor. The locks
// are as good as before, but the next start would take them for void, so
// another one is made as soon as nothing else is under way.
func (a *anchor) ended() {
	if a.state == anchorMaking || a.state == anchorPersisting {
		return // the operation under way ends badly
	}
	a.sp.t.log(slog.LevelError, "somebody else removed the anchor of the lockspace", slog.String("lockspace", a.sp.name))
	a.id = 0
	if a.sp.state == spaceReady {
		a.make()
	}
}

// record writes down that the lockspace is joined, and which anchor it has.
func (a *anchor) record() {
	a.state = anchorRecording
	if a.sp.state == spaceProving { // an earlier start made it, and did not write that down
		a.sp.state = spaceAnchoring
	}
	a.sp.recorded = state.Joined
	a.sp.writePhase(true)
}

// recorded goes on once the anchor is written down, or kept to be written.
func (a *anchor) recorded() {
	sp := a.sp
	a.state = anchorIdle
	switch {
	case a.id == 0: // removed meanwhile
		a.make()
		return
	case sp.state == spaceReanchoring:
		sp.state = spaceReady
	default:
		sp.records.adoptAll()
	}
	for _, ck := range a.old {
		sp.t.do(UnlockAction{Lockspace: sp.id, Cookie: ck})
	}
	a.old = nil
}

// adopted takes the answer of the lock manager whether our anchor is there.
func (a *anchor) adopted(ev dlm.Event) {
	sp := a.sp
	switch {
	case ev.Status.OK() && sp.recorded == state.Leaving:
		sp.finishLeave()
	case ev.Status.OK() && sp.recorded == state.Joined:
		if ev.LockID != a.id {
			sp.t.log(slog.LevelWarn, "anchor has another lockid than recorded", slog.String("lockspace", sp.name),
				slog.Uint64("lkid", uint64(ev.LockID)))
		}
		a.id = ev.LockID
		sp.records.adoptAll()
	case ev.Status.OK(): // made, and not yet written down
		a.id = ev.LockID
		a.record()
	case ev.Status != dlm.StatusNotFound && ev.Status != dlm.StatusAgain:
		sp.fail(&api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Errno: ev.Status.Errno(),
			Text: "the anchor lock could not be adopted: " + ev.Status.String()}, true)
	default:
		sp.state = spaceExamining
		sp.lookInto()
	}
}

// examined decides what a lockspace is that exists and has no anchor of ours.
func (sp *lockspace) examined(k Looked) {
	switch found := sp.recordedIn(k.Orphans); {
	case !k.HasOrphans && (sp.recorded == state.Creating || !errors.Is(k.OrphansErr, errNoTables)):
		sp.fail(unseen(sp, "which locks are in it", k.OrphansErr), true)
	case k.UsersErr != nil && (found || sp.recorded == state.Creating):
		sp.fail(unseen(sp, "whether another process uses it", k.UsersErr), true)
	case found && len(k.Users) > 0:
		sp.fail(&api.Error{Op: "join", Lockspace: sp.name, Kind: api.LockspaceInUse,
			Text: "somebody removed the anchor of the lockspace, and " +
				usersText(k.Users) + "; stop what uses it first"}, true)
	case found:
		sp.t.log(slog.LevelError, "somebody else removed the anchor of the lockspace", slog.String("lockspace", sp.name))
		sp.anchor.id = 0
		if sp.recorded == state.Leaving {
			sp.finishLeave()
			return
		}
		sp.anchor.make()
	default:
		sp.takeOver(&takeover{sp: sp, attempt: sp.attempt, seen: k, left: slices.DeleteFunc(slices.Clone(k.Orphans),
			func(o dlm.Orphan) bool { return !isAnchor(o.Resource) || o.Mode != dlm.NL })})
	}
}

// recordedIn tells whether one of the orphans is a recorded lock.
func (sp *lockspace) recordedIn(orphans []dlm.Orphan) bool {
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

// takeover is the adoption of the anchors of earlier instances whose state files are lost.
// The anchor of an instance that runs is not an orphan, so it can't be adopted.
type takeover struct {
	sp      *lockspace
	attempt int
	seen    Looked       // the look that found them
	left    []dlm.Orphan // still to be adopted; the first one is in flight
	cookie  dlm.Cookie   // of the adoption that is in flight
}

// takeOver asks for the next anchor; where none is left, it is decided whose the
// lockspace is.
func (sp *lockspace) takeOver(o *takeover) {
	switch {
	case len(o.left) > 0:
		sp.state, o.cookie = spaceTakingOver, dlm.Cookie(sp.t.locks.nextRef())
		sp.orphans.adopt(o.cookie, o.left[0].Resource, dlm.NL, o)
	case len(sp.anchor.old) > 0:
		sp.tookOver()
	default:
		sp.unclaimed(o.seen)
	}
}

// orphanAdopted takes the end of the adoption of one of the anchors.
func (o *takeover) orphanAdopted(ev dlm.Event) {
	sp := o.sp
	switch {
	case sp.attempt != o.attempt:
		return
	case ev.Status.OK():
		sp.anchor.old = append(sp.anchor.old, o.cookie)
	case ev.Status != dlm.StatusNotFound && ev.Status != dlm.StatusAgain:
		sp.fail(&api.Error{Op: "join", Lockspace: sp.name, Kind: api.KernelError, Errno: ev.Status.Errno(),
			Text: "the anchor lock of an earlier instance could not be adopted: " + ev.Status.String()}, true)
		return
	}
	o.left = o.left[1:]
	sp.takeOver(o)
}

// tookOver goes on with a lockspace of the service whose map is lost.
func (sp *lockspace) tookOver() {
	sp.t.log(slog.LevelError, msgMapLost.String(), slog.String("lockspace", sp.name))
	sp.orphans.mapLost = true
	sp.voidAll("another instance of the service has made the lockspace again since the lock was taken")
	if sp.recorded == state.Leaving {
		sp.finishLeave()
		return
	}
	sp.state, sp.recorded, sp.anchor.id = spaceReclaiming, state.Creating, 0
	sp.writePhase(true)
}

// unclaimed decides about a lockspace that no instance of the service has an anchor
// in.
func (sp *lockspace) unclaimed(k Looked) {
	switch {
	case sp.recorded == state.Creating && len(k.Users) == 0 && len(k.Orphans) == 0:
		sp.anchor.make()
	case sp.recorded == state.Leaving:
		sp.t.log(slog.LevelWarn, msgMadeAgain.String(), slog.String("lockspace", sp.name))
		sp.left("the lockspace was left and made again by somebody else since the lock was taken")
	default:
		if sp.recorded == state.Joined {
			sp.t.log(slog.LevelWarn, msgJoinedAgain.String(), slog.String("lockspace", sp.name), slog.Int("locks", sp.locks))
		}
		if sp.recorded != 0 { // foreign writes "left", which ends the records of all locks in it
			sp.voidAll("the lockspace was left and joined again since the lock was taken")
		}
		sp.foreign(k)
	}
}

// foreign refuses a lockspace that exists and is not ours: any process that
// can open a lockspace can unlock everything in it, so sharing one with lvm or
// a file system is never right.
func (sp *lockspace) foreign(k Looked) {
	e := &api.Error{Op: "join", Lockspace: sp.name, Kind: api.LockspaceForeign,
		Text: "the lockspace exists on this node and was not made by this service, so it is left alone; choose " +
			"another name, or leave it with dlm_tool leave if nobody uses it"}
	switch {
	case len(k.Users) > 0:
		e.Text += " (" + usersText(k.Users) + ")"
	case k.OrphansErr != nil:
		e.Text += " (if this service made it and has lost its state file, only debugfs can show that: mount debugfs " +
			"at /sys/kernel/debug, then join again)"
	}
	if sp.recorded != 0 {
		sp.notMade()
		sp.anchor.id = 0
	}
	sp.fail(e, false)
}

// unseen is why a lockspace is not used as long as something can't be looked at.
func unseen(sp *lockspace, what string, err error) *api.Error {
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
