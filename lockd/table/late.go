package table

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// obstacle is what a call waits for.
type obstacle struct {
	lockspace, resource string
	mode                dlm.Mode
	sp                  *lockspace // nil: none
	queued              bool       // it has not begun, or stands in a queue of the lock manager
	recording           bool       // it waits for the state file
	text                string     // what to say instead of what is said otherwise
	noted               string     // what comes of the operation all the same
}

// obstacleOf is the obstacle of an operation that has locks: the one of them with
// an operation under way, or else what the call has named first.
func (t *Table) obstacleOf(locks []*lock, lockspace, resource string, mode dlm.Mode) obstacle {
	for _, l := range locks {
		if l != nil && l.inFlight() {
			return obstacle{lockspace: l.sp.name, resource: l.resource, mode: l.wanted, sp: l.sp}
		}
	}
	return obstacle{lockspace: lockspace, resource: resource, mode: mode, sp: t.spaces.byName[lockspace]}
}

// lateError says why a call has got no answer in time.
func (c *call) lateError(w obstacle) *api.Error {
	if behind := c.place.behind; behind != nil && w.sp == nil {
		w.lockspace, w.resource, w.sp = behind.sp.name, behind.resource, behind.sp
	}
	late := func(k api.Kind, text string) *api.Error {
		return c.errorOf(k, w.lockspace, w.resource, dlm.None, text+w.noted)
	}
	switch {
	case w.sp != nil && w.sp.stopped():
		e := c.stoppedError(w.sp, w.resource)
		e.Text += w.noted
		return e
	case c.wait > 0 && w.queued:
		e := late(api.Timeout, "not granted in the time given").WithHint(api.HintWaitLonger)
		e.Mode = w.mode
		if w.sp != nil {
			e.Holder = w.sp.localHolder(w.resource, w.mode, c)
		}
		return e
	case w.text != "":
		return late(api.LockspaceStopped, w.text).WithHint(api.HintLockspaceState)
	case !c.place.started:
		return late(api.Timeout, "another call for the same lock has not ended in time; try again")
	case w.recording:
		return late(api.StateWriteFailed, "the state file could not be written in time")
	}
	return late(api.LockspaceStopped, "the lock manager has not answered in time; the lockspace may be recovering").
		WithHint(api.HintLockspaceState)
}
