package table

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// What happens when a lock is lost that names a helper, and what is on disk and
// what is done at the next start if the process dies before the next step:
//
//	lost in the DLM      record "held", no lock: lost, and so found by activation
//	append "lost"        the same, or a record "lost": told and run again
//	LockLost, run        a record "lost": told and run again
//	the helper has ended the same
//	append "gone"        nothing
//
// So a helper runs at least once for each loss. It is started without waiting
// for the write: until "lost" is written, "held" has it run again as well.

// checkOnLost checks the helper that an acquire names.
func (c *call) checkOnLost(o *api.OnLost) *api.Error {
	if o == nil {
		return nil
	}
	bad := func(k api.Kind, about api.Argument, format string, a ...any) *api.Error {
		e := c.errorOf(k, "", "", dlm.None, fmt.Sprintf(format, a...))
		e.Argument = about
		return e
	}
	policy, ok := c.t.conf.Helpers[o.Helper]
	switch {
	case !ok:
		return bad(api.InvalidArgs, api.ArgOnLost, "no helper %q is configured here; "+
			"an administrator can add [on-lost.NAME] to /etc/dlmlockd.toml", api.Printable(o.Helper))
	case !policy.Allows(c.caller):
		return bad(api.AccessDenied, api.ArgOnLost, "uid %d may not use the helper %q; "+
			"see uids and group of [on-lost.%s] in /etc/dlmlockd.toml", c.caller.UID, o.Helper, o.Helper)
	case len(o.Data) > c.t.conf.Limits.LabelBytes:
		return bad(api.LimitExceeded, api.ArgOnLostData,
			"the data for the helper have %d bytes, at most %d are allowed "+
				"(limits.label-bytes)", len(o.Data), c.t.conf.Limits.LabelBytes)
	case !utf8.ValidString(o.Data) || strings.ContainsRune(o.Data, 0):
		return bad(api.InvalidArgs, api.ArgOnLostData, "the data for the helper must be UTF-8 without zero bytes")
	}
	return nil
}

// lostChange is what is written down of a lock that is lost.
func (l *lock) lostChange(why string) state.Change {
	if l.onLost() == nil {
		return state.Mark{ID: uint64(l.ref), Phase: state.Gone}
	}
	r := l.record(state.Lost)
	r.Reason = why
	if !r.Mode.Valid() {
		r.Mode = dlm.NL // it was lost in the middle of a conversion
	}
	return r
}

// runLost has the helper of a lost lock run, if it names one.
func (l *lock) runLost(lost api.Lost) {
	if on := l.onLost(); on != nil {
		l.sp.t.startRun(api.LostRun{Lost: lost, Helper: on.Helper, Data: on.Data, PIDStart: l.procStart()})
	}
}

// startRun has the helper of a lost lock run. The loss is kept in running until HelperEnded,
// because the record has to stay until then.
func (x *losses) startRun(r api.LostRun) {
	t := x.t
	x.running[r.Ref] = struct{}{}
	t.do(RunHelperAction{r})
}

// HelperEnded takes the end of a run.
func (x *losses) HelperEnded(ref api.Ref) {
	t := x.t
	if _, ok := x.running[ref]; !ok {
		return
	}
	delete(x.running, ref)
	t.append(true, []state.Change{state.Mark{ID: uint64(ref), Phase: state.Gone}}, nil)
}

// loseAgain takes up the record of a loss whose helper has perhaps not run to
// its end. recorded tells that the running file has the record.
func (x *losses) loseAgain(r state.Lock, recorded bool) {
	t := x.t
	if !recorded {
		t.append(true, []state.Change{r}, nil)
	}
	lost := api.Lost{Reason: r.Reason, At: t.now, LockInfo: api.LockInfo{
		Ref: api.Ref(r.ID), Lockspace: r.Lockspace, Resource: r.Resource, LockID: r.LockID, Mode: r.Mode, Wanted: dlm.None,
		State: api.Held, Token: r.Token, Owner: r.Owner, HasOwner: r.HasOwner, Label: r.Label, Lifetime: r.Lifetime,
		UID: r.UID, PID: r.PID, Session: api.RecordedSession(r.Session, r.SessionBus), Since: r.Since, OnLost: r.OnLost,
	}}
	t.log(slog.LevelWarn, "the service ended before the helper of a lost lock did, it is run again",
		slog.String("lockspace", r.Lockspace),
		slog.String("resource", api.Printable(r.Resource)), slog.String("owner", r.Owner), slog.String("on-lost", r.OnLost))
	x.tellLost(lost)
	x.startRun(api.LostRun{Lost: lost, Helper: r.OnLost, Data: r.OnLostData, PIDStart: r.PIDStart})
}

// losses are the locks that are lost.
type losses struct {
	t       *Table
	lately  []api.Lost           // kept for Inspect and Lost, oldest first
	running map[api.Ref]struct{} // those whose helper has not ended
}

// lostKept is how many lost locks at least Inspect can still tell of.
const lostKept = 1000

// tellLost tells front ends that a lock is lost, and keeps it for Inspect.
func (x *losses) tellLost(lost api.Lost) {
	t := x.t
	t.counters.Lost++
	if len(x.lately) == 2*lostKept {
		x.lately = slices.Delete(x.lately, 0, lostKept)
	}
	x.lately = append(x.lately, lost)
	t.do(NotifyAction{api.LockLost{Lost: lost}})
}

// Lost lists the locks that were lately lost and match, the last one first.
func (x *losses) Lost(f api.Filter) []api.Lost {
	out := []api.Lost{}
	for _, l := range slices.Backward(x.lately) {
		if f.Limit > 0 && len(out) == f.Limit {
			break
		}
		if (f.Lockspace == "" || l.Lockspace == f.Lockspace) && (f.Resource == "" || l.Resource == f.Resource) &&
			(!f.HasOwner || l.HasOwner && l.Owner == f.Owner) && (!f.HasUID || l.UID == f.UID) {
			out = append(out, l)
		}
	}
	return out
}

// lose ends a lock that is not there any more, and tells front ends.
func (l *lock) lose(why string) { l.sp.t.loseAll([]*lock{l}, why) }

// loseAll ends locks that are not there any more. That they are lost is written without
// waiting: the locks are gone whether or not it can be written.
func (x *losses) loseAll(in []*lock, why string) {
	t := x.t
	if len(in) == 0 {
		return
	}
	changes := make([]state.Change, len(in))
	for i, l := range in {
		changes[i] = l.lostChange(why)
	}
	t.append(true, changes, nil)
	for _, l := range in {
		lost := api.Lost{LockInfo: l.info(), Reason: why, At: t.now}
		t.logLock(slog.LevelError, msgLockLost.String(), l, slog.String("err", why))
		x.tellLost(lost)
		l.runLost(lost)
		l.remove()
	}
}
