package table

import (
	"log/slog"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// abandonAcquire withdraws what an acquire asked for; the stage that is under
// way ends in undoAcquire, because err is set.
func (t *Table) abandonAcquire(c *call) {
	if c.wait > 0 {
		t.cancelFlying(c)
	}
}

// undoAcquire lets go of everything that a failed acquire got.
func (t *Table) undoAcquire(c *call) {
	c.stage, c.pending = stageUnlocking, 0
	for _, l := range c.fresh {
		if l.mode != dlm.None {
			c.pending++
		}
	}
	for _, l := range c.fresh {
		if l.mode != dlm.None {
			t.unlock(l)
		}
	}
	if c.pending == 0 {
		t.forgetAcquire(c)
	}
}

func (t *Table) undoDone(c *call, l *lock, ev dlm.Event) {
	if !ended(ev.Status) {
		t.unlockLater(l, ev.Status)
		t.reply(c) // why is known, and how long it takes is not
		return
	}
	c.pending--
	l.mode = dlm.None
	if c.pending == 0 {
		t.forgetAcquire(c)
	}
}

// forgetAcquire takes the records back.
func (t *Table) forgetAcquire(c *call) {
	c.stage = stageForgetting
	if !c.recorded {
		t.endAcquire(c)
		return
	}
	t.append(true, c.marks(c.fresh, state.Gone), func(error) {
		t.endAcquire(c)
	})
}

func (t *Table) endAcquire(c *call) {
	c.stage = stageDone
	t.logRefused(c)
	if c.err.Kind == api.WouldBlock && !c.answered && c.err.Holder == "" {
		t.nameHolder(c)
	} else {
		t.reply(c)
	}
	for _, l := range c.fresh {
		t.remove(l)
	}
}

// writeFailed notes that the state file can't be written.
func (t *Table) writeFailed(c *call, err error) {
	text := "nothing was locked, because the state file can't be written: "
	if c.recorded {
		text = "the lock is not granted, because the state file can't be written, and is released as soon as it can be: "
	}
	c.fail(c.writeError("", "", text, err))
}

// writeError says that something could not be written down, and what to do.
func (c *call) writeError(lockspace, resource, text string, err error) *api.Error {
	e := c.error(api.StateWriteFailed, lockspace, resource, dlm.None, text+err.Error()+"; "+state.Advice(err))
	e.Err = err
	return e
}

// JournalHealth keeps track of whether something new can be written down.
func (t *Table) JournalHealth(err error) {
	if err == nil {
		t.degraded = ""
		t.log(slog.LevelInfo, "state file can be written again")
		return
	}
	t.degraded = "new locks are refused, because the state file can't be written: " + err.Error() + "; " + state.Advice(err)
	t.log(slog.LevelError, "state file can't be written, new locks are refused", slog.String("err", err.Error()))
}
