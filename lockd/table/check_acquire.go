package table

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// check looks at everything that does not depend on locks held.
func (o *acquireOp) check() *api.Error {
	if e := o.checkOptions(); e != nil {
		return e
	}
	for _, w := range o.want {
		if e := o.checkWant(w); e != nil {
			return e
		}
	}
	if o.opts.Value == nil {
		return nil
	}
	if len(o.want) != 1 {
		return o.errorOf(api.InvalidArgs, "", "", dlm.None, "value goes with one lock only").WithArgument(api.ArgValue)
	}
	return o.checkValue(o.opts.Value, o.want[0], o.want[0].Mode)
}

// checkOptions checks the options by themselves and against the limits.
func (o *acquireOp) checkOptions() *api.Error {
	bad := func(k api.Kind, format string, a ...any) *api.Error {
		return o.errorOf(k, "", "", dlm.None, fmt.Sprintf(format, a...))
	}
	opts, limits := &o.opts, &o.t.conf.Limits
	switch {
	case len(o.want) > limits.BatchLocks:
		return bad(api.LimitExceeded, "%d locks in one call, at most %d are allowed; use several calls", len(o.want),
			limits.BatchLocks)
	case opts.Labels != nil && opts.Label != "":
		return bad(api.InvalidArgs, "label and labels can't be given together").WithArgument(api.ArgLabels)
	case opts.Labels != nil && len(opts.Labels) != len(o.want):
		return bad(api.InvalidArgs, "%d labels for %d locks; give one for each, or label for all", len(opts.Labels),
			len(o.want)).WithArgument(api.ArgLabels)
	case o.wait < 0 || o.wait > api.MaxWait && o.request == 0:
		return bad(api.InvalidArgs, "the wait is longer than %s", api.MaxWait).WithArgument(api.ArgWait)
	}
	if e := o.checkOwner("", opts.Owner, opts.HasOwner, opts.Label); e != nil {
		return e
	}
	for _, label := range opts.Labels {
		switch {
		case len(label) > limits.LabelBytes:
			return bad(api.LimitExceeded, "a label has %d bytes, at most %d are allowed", len(label), limits.LabelBytes)
		case !utf8.ValidString(label):
			return bad(api.InvalidArgs, "labels must be UTF-8").WithArgument(api.ArgLabels)
		}
	}
	if e := o.checkOnLost(opts.OnLost); e != nil {
		return e
	}
	return o.checkLifetime()
}

// checkOwner checks for whom a lock is to be.
func (c *call) checkOwner(lockspace, owner string, hasOwner bool, label string) *api.Error {
	bad := func(k api.Kind, format string, a ...any) *api.Error {
		return c.errorOf(k, lockspace, "", dlm.None, fmt.Sprintf(format, a...))
	}
	limits := &c.t.conf.Limits
	switch {
	case len(owner) > limits.OwnerBytes:
		return bad(api.LimitExceeded, "the owner has %d bytes, at most %d are allowed", len(owner), limits.OwnerBytes)
	case len(label) > limits.LabelBytes:
		return bad(api.LimitExceeded, "the label has %d bytes, at most %d are allowed", len(label), limits.LabelBytes)
	case hasOwner && owner == "":
		return bad(api.InvalidArgs, "the owner is empty; leave it out for a lock without owner").
			WithArgument(api.ArgOwner)
	case !utf8.ValidString(owner):
		return bad(api.InvalidArgs, "the owner must be UTF-8").WithArgument(api.ArgOwner)
	case !utf8.ValidString(label):
		return bad(api.InvalidArgs, "the label must be UTF-8").WithArgument(api.ArgLabel)
	}
	return nil
}

// checkLifetime checks what a lifetime needs.
func (o *acquireOp) checkLifetime() *api.Error {
	bad := func(text string) *api.Error {
		return o.errorOf(api.InvalidArgs, "", "", dlm.None, text).WithArgument(api.ArgLifetime)
	}
	k := bindKey{}
	switch o.opts.Lifetime {
	case state.Persistent:
		if o.opts.PID != 0 || o.opts.HasStart {
			return bad("a process is named only with the lifetime process").WithArgument(api.ArgPID)
		}
		return nil
	case state.Connection:
		if k.session = o.caller.Session; k.session == "" {
			return bad("the lifetime connection needs a connection that the lock can be tied to")
		}
	case state.Process:
		if k.proc = o.proc; k == (bindKey{}) {
			return bad("the lifetime process needs the pid of a process").WithArgument(api.ArgPID)
		}
	default:
		return bad("the lifetime is persistent, connection or process")
	}
	if b := o.t.lifetimes.bindings[k]; b != nil && b.dead {
		e := bad("the connection or process that the lock would be tied to has ended")
		if o.opts.PID != 0 {
			e.Argument = api.ArgPID
		}
		return e
	}
	return nil
}

// checkWant checks the names and the mode of one lock, and that its lockspace
// can grant.
func (c *call) checkWant(w api.Want) *api.Error {
	if !w.Mode.Valid() {
		return c.errorOf(api.InvalidMode, w.Lockspace, w.Resource, dlm.None,
			"the mode is not one of NL, CR, CW, PR (shared), PW, EX (exclusive)")
	}
	if e := c.checkName(w.Lockspace, w.Resource); e != nil {
		return e
	}
	_, e := c.usable(w.Lockspace, w.Resource)
	return e
}

// checkName checks the name of a lockspace and of a resource in it.
func (c *call) checkName(lockspace, resource string) *api.Error {
	if e := c.checkLockspaceName(lockspace); e != nil {
		return e
	}
	if err := dlm.CheckResource(resource); err != nil {
		return c.errorOf(api.InvalidName, lockspace, resource, dlm.None, adviceOf(err))
	}
	if strings.HasPrefix(resource, api.ReservedPrefix) {
		return c.errorOf(api.InvalidName, lockspace, resource, dlm.None,
			"names that begin with "+api.ReservedPrefix+" are the service's own")
	}
	return nil
}

// checkLockspaceName checks the form of a name, before it is known whether there is such a
// lockspace.
func (c *call) checkLockspaceName(lockspace string) *api.Error {
	if err := dlm.CheckLockspace(lockspace); err != nil {
		return c.errorOf(api.InvalidName, lockspace, "", dlm.None, adviceOf(err))
	}
	return nil
}

// adviceOf returns the advice of an engine's error, or its text.
func adviceOf(err error) string {
	if e, ok := errors.AsType[*dlm.Error](err); ok && e.Advice != "" {
		return e.Advice
	}
	return err.Error()
}

// usable returns the lockspace if it can take requests now.
func (c *call) usable(lockspace, resource string) (*lockspace, *api.Error) {
	bad := func(k api.Kind, text string) *api.Error { return c.errorOf(k, lockspace, resource, dlm.None, text) }
	sp := c.t.spaces.byName[lockspace]
	switch {
	case sp == nil:
		return nil, bad(api.NoSuchLockspace, "the lockspace is not joined here").WithHint(api.HintJoin)
	case sp.ready() && sp.stopped() && c.wait == 0:
		return nil, c.stoppedError(sp, resource)
	case sp.ready():
		return sp, nil
	case sp.public() == api.SpaceLeaving:
		return nil, bad(api.NoSuchLockspace, "the lockspace is being left")
	case sp.err != nil:
		return nil, bad(sp.err.Kind, sp.err.Text).WithHint(sp.err.Hint)
	}
	return nil, bad(api.LockspaceStopped, "the lockspace is still being joined; try again in a moment")
}

// findOwn fills in the locks that the owner has already. Where one of them is busy
// the call follows what is under way, and starts again.
func (o *acquireOp) findOwn() *api.Error {
	if !o.opts.HasOwner {
		return nil
	}
	for i, w := range o.want {
		held := func(format string, a ...any) *api.Error {
			return o.errorOf(api.AlreadyHeld, w.Lockspace, w.Resource, w.Mode,
				fmt.Sprintf("owner %q holds it ", o.opts.Owner)+fmt.Sprintf(format, a...))
		}
		l := o.t.locks.findOwned(o.t.spaces.byName[w.Lockspace], w.Resource, o.caller.UID, o.opts.Owner)
		switch {
		case l == nil:
			continue
		case l.busy != nil:
			o.follow(l.busy, l)
			return nil
		case l.mode != w.Mode:
			return held("in mode %s already", l.mode).WithHint(api.HintConvert)
		case l.lifetime != o.opts.Lifetime:
			return held("with another lifetime; release it first")
		case l.lifetime == state.Process && l.bound.proc != o.proc:
			return held("for process %d; release it first, or use another owner", l.pid)
		}
		o.locks[i] = l
	}
	return nil
}

// checkRoom checks that the locks to be made can be written down, and the
// caller's limits.
func (o *acquireOp) checkRoom() *api.Error {
	n := 0
	for _, l := range o.locks {
		if l == nil {
			n++
		}
	}
	t := o.t
	if n > 0 && t.degraded != "" {
		return o.errorOf(api.StateWriteFailed, "", "", dlm.None, t.degraded)
	}
	var u usage
	if p := t.locks.perUID[o.caller.UID]; p != nil {
		u = *p
	}
	limits := &t.conf.Limits
	if u.locks+n > limits.LocksPerUID {
		return o.errorOf(api.LimitExceeded, "", "", dlm.None, fmt.Sprintf(
			"uid %d has %d locks and may have %d (limits.locks-per-uid); release "+
				"some", o.caller.UID, u.locks, limits.LocksPerUID))
	}
	if o.wait > 0 && u.waiting+n > limits.WaitingPerUID {
		return o.errorOf(api.LimitExceeded, "", "", dlm.None, fmt.Sprintf(
			"uid %d has %d requests waiting and may have %d "+
				"(limits.waiting-per-uid)", o.caller.UID, u.waiting, limits.WaitingPerUID))
	}
	return nil
}

// makeLocks makes the locks that the owner does not have yet. One that is
// wanted twice by one owner is one lock.
func (o *acquireOp) makeLocks() *api.Error {
	t := o.t
	for i, w := range o.want {
		if o.locks[i] != nil {
			continue
		}
		sp := t.spaces.byName[w.Lockspace]
		if o.opts.HasOwner {
			if l := t.locks.findOwned(sp, w.Resource, o.caller.UID, o.opts.Owner); l != nil {
				if l.wanted != w.Mode {
					return o.errorOf(api.AlreadyHeld, w.Lockspace, w.Resource, w.Mode,
						"one owner wants the resource in two modes in one call")
				}
				o.locks[i] = l
				continue
			}
		}
		l := o.newLock(sp, w, o.opts.LabelAt(i))
		t.locks.add(l)
		l.bind(o.proc)
		o.locks[i] = l
		o.fresh = append(o.fresh, l)
	}
	return nil
}

// newLock makes the entry of a lock that is to be taken.
func (o *acquireOp) newLock(sp *lockspace, w api.Want, label string) *lock {
	l := &lock{
		ref: o.t.locks.nextRef(), sp: sp, resource: w.Resource, mode: dlm.None, wanted: w.Mode, blocked: dlm.None,
		state: lockAcquiring, busy: &o.call, asked: o.seq,
		client: client{owner: o.opts.Owner, hasOwner: o.opts.HasOwner, label: label, lifetime: o.opts.Lifetime,
			uid: o.caller.UID, pid: o.caller.PID, session: o.caller.Session},
	}
	if o.opts.OnLost != nil {
		l.more().onLost = o.opts.OnLost
	}
	if l.lifetime == state.Process {
		l.pid = o.proc.PID
	}
	return l
}
