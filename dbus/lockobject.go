package dbus

import (
	"errors"
	"strconv"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// lockIface is the interface of a lock.
var lockIface = newIface(lockIfaceName, []property{
	text("Lockspace", emitsConst, func(l *api.LockInfo) string { return l.Lockspace }),
	text("Resource", emitsConst, func(l *api.LockInfo) string { return l.Resource }),
	prop("LockID", "u", emitsConst, func(_ *Server, l *api.LockInfo) any { return uint32(l.LockID) }),
	text("Mode", emitsTrue, func(l *api.LockInfo) string { return modeName(l.Mode) }),
	text("Wanted", emitsTrue, func(l *api.LockInfo) string { return modeName(l.Wanted) }),
	text("State", emitsTrue, func(l *api.LockInfo) string { return l.State.String() }),
	prop("Token", "t", emitsTrue, func(_ *Server, l *api.LockInfo) any { return l.Token }),
	text("Owner", emitsConst, func(l *api.LockInfo) string { return l.Owner }),
	text("Label", emitsConst, func(l *api.LockInfo) string { return l.Label }),
	text("Lifetime", emitsConst, func(l *api.LockInfo) string { return l.Lifetime.String() }),
	text("OnLost", emitsConst, func(l *api.LockInfo) string { return l.OnLost }),
	prop("UID", "u", emitsConst, func(_ *Server, l *api.LockInfo) any { return l.UID }),
	prop("PID", "u", emitsConst, func(_ *Server, l *api.LockInfo) any { return l.PID }),
	// The first grant; a conversion does not change it, and an object exists from then on.
	prop("Since", "t", emitsConst, func(_ *Server, l *api.LockInfo) any { return usec(l.Since) }),
},
	&method{name: "Release", in: "a{sv}", parse: parseLockRelease},
	&method{name: "Convert", in: "sa{sv}", out: "t", parse: parseLockConvert})

// findLock asks the service for the lock that the call is for. A lock that was
// never granted is no object. The state file keeps the next ref, so a path that a client has
// kept never means a different lock after a restart.
func (c *call) findLock() (*api.LockInfo, error) {
	ref, ok := number(c.id)
	if !ok {
		return nil, c.noObject("lock")
	}
	type answer struct {
		info api.LockInfo
		err  error
	}
	a, err := ask(c, func(done func(answer)) {
		c.srv.service().Lock(api.Ref(ref), func(l api.LockInfo, err error) { done(answer{l, err}) })
	})
	var e *api.Error
	switch {
	case err != nil:
	case errors.As(a.err, &e) && e.Kind != api.NotHeld:
		err = a.err // a service that ends has not said that there is none
	case a.err != nil || a.info.State == api.Acquiring:
		err = c.noObject("lock")
	}
	return &a.info, err
}

// lookLock is the look of the node.
func lookLock(c *call) (any, error) { return c.findLock() }

// lockChildren are the names of the objects of locks, for Introspect: of the first MaxListed.
func lockChildren(c *call) ([]string, error) {
	locks, err := ask(c, func(done func([]api.LockInfo)) {
		c.srv.service().Snapshot(MaxListed, func(_ []api.LockspaceInfo, locks []api.LockInfo, _ func(api.Ref) int) {
			done(locks)
		})
	})
	names := make([]string, len(locks))
	for i := range locks {
		names[i] = strconv.FormatUint(uint64(locks[i].Ref), 10)
	}
	return names, err
}

// releaseLockOptions are those of Release that don't say which lock is meant.
var releaseLockOptions = only(frontend.ReleaseOptions, api.ArgReason)

// releaseLock is Release of a lock.
type releaseLock struct{ release }

func parseLockRelease(body *reader) (request, error) {
	r := new(releaseLock)
	return r, parseOptions("release", releaseLockOptions, body, &r.Release)
}

// Validate implements frontend.Method. The names are not known yet.
func (*releaseLock) Validate() error { return nil }

// serve is Release of the root object, with this lock named. The reference is a selector, too: if the
// lock ends before the call reaches the table, none that comes after it is released.
func (r *releaseLock) serve(c *call) {
	l, err := c.findLock()
	if err != nil {
		c.Fail(err)
		return
	}
	r.Lockspace, r.Resource, r.Selector.Ref = l.Lockspace, l.Resource, l.Ref
	if err := r.release.Validate(); err != nil {
		c.Fail(err)
		return
	}
	r.release.serve(c)
}

// convertLockOptions are those of Convert that don't say which lock is meant.
var convertLockOptions = only(frontend.ConvertOptions, api.ArgWait, api.ArgValue)

// convertLock is Convert of a lock.
type convertLock struct{ convert }

func parseLockConvert(body *reader) (request, error) {
	r := new(convertLock)
	var err error
	if r.convert.Want.Mode, err = frontend.ParseMode(body.text()); err != nil {
		return nil, named("convert", api.Want{}, err)
	}
	return r, parseOptions("convert", convertLockOptions, body, &r.convert.Convert)
}

// Validate implements frontend.Method. The names are not known yet.
func (*convertLock) Validate() error { return nil }

// serve is Convert of the root object, with this lock named.
func (r *convertLock) serve(c *call) {
	l, err := c.findLock()
	if err != nil {
		c.Fail(err)
		return
	}
	r.Want.Lockspace, r.Want.Resource, r.Selector.Ref = l.Lockspace, l.Resource, l.Ref
	if err := r.convert.Validate(); err != nil {
		c.Fail(err)
		return
	}
	r.convert.serve(c)
}

// lockOrNone is the path of a lock, or "/" for none.
func lockOrNone(r api.Ref) godbus.ObjectPath {
	if r == 0 {
		return "/"
	}
	return lockPath(r)
}
