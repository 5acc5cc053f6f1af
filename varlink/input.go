package varlink

import (
	"errors"
	"math"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// method is one of the service's own methods.
type method struct {
	name      string
	needsMore bool         // each of its replies is one element; varlink.org calls that "more"
	input     func() input // a new one for each call: the parameters are read into it
}

// methods are those of the interface, by their whole names.
var methods = index([]method{
	{"Acquire", false, func() input { return new(acquire) }},
	{"AcquireMany", false, func() input { return new(acquireMany) }},
	{"Convert", false, func() input { return new(convert) }},
	{"Release", false, func() input { return new(release) }},
	{"ReleaseOwner", false, func() input { return new(releaseOwner) }},
	{"ReleaseMany", false, func() input { return new(releaseMany) }},
	{"Inspect", false, func() input { return new(inspect) }},
	{"ListLocks", true, func() input { return new(listLocks) }},
	{"ListWaits", true, func() input { return new(listWaits) }},
	{"ListLost", true, func() input { return new(listLost) }},
	{"ListNodes", true, func() input { return new(listNodes) }},
	{"ListLockspaces", true, func() input { return new(listLockspaces) }},
	{"JoinLockspace", false, func() input { return new(join) }},
	{"LeaveLockspace", false, func() input { return new(leave) }},
	{"ListOrphans", true, func() input { return new(listOrphans) }},
	{"AdoptOrphan", false, func() input { return new(adopt) }},
	{"Purge", false, func() input { return new(purge) }},
	{"Monitor", true, func() input { return new(monitor) }},
	{"Describe", false, func() input { return new(describe) }},
})

func index(list []method) map[string]*method {
	m := make(map[string]*method, len(list))
	for i := range list {
		m[Interface+"."+list[i].name] = &list[i]
	}
	return m
}

// setter puts fields that a call may have into a method of package frontend, by the
// table of options that both doors share: what an option means and which values it
// takes is decided there. The first error stays, so the callers check once (done).
type setter[T any] struct {
	table []frontend.Option[T]
	into  *T
	err   error
}

// set sets one option. v has the type that the option has in the table: the types here
// are those of the interface, so anything else is a mistake in this package.
func (s *setter[T]) set(name api.Argument, v any) {
	for i := range s.table {
		if o := &s.table[i]; o.Name == name {
			if err := o.Set(s.into, v); s.err == nil {
				s.err = err
			}
			return
		}
	}
	panic("varlink: no option " + name)
}

// given puts a field in, unless it is null.
func given[T, V any](s *setter[T], name api.Argument, v *V) {
	if v != nil {
		s.set(name, *v)
	}
}

// lock puts the name of a lock in, unless it is null.
func (s *setter[T]) lock(name api.Argument, v *string) {
	if v == nil {
		return
	}
	ref, err := parseLockName(name, *v)
	if err != nil {
		if s.err == nil {
			s.err = err
		}
		return
	}
	s.set(name, ref)
}

// scope puts in what a list is narrowed to.
func (s *setter[T]) scope(in *scope) {
	given(s, api.ArgLockspace, in.Lockspace)
	given(s, api.ArgResource, in.Resource)
	given(s, api.ArgOwner, in.Owner)
	given(s, api.ArgUID, in.UserID)
}

// pages puts in where a list begins, and returns how many elements it has at most.
func (s *setter[T]) pages(in *pages) (left uint64) {
	s.lock(api.ArgAfter, in.After)
	if in.Limit == nil {
		return math.MaxUint64
	}
	if *in.Limit == 0 && s.err == nil {
		// A list has no longest page here, as it has in package frontend.
		s.err = &api.Error{Kind: api.InvalidArgs, Mode: dlm.None, Argument: api.ArgLimit,
			Text: "it is at least 1; leave it out for all"}
	}
	return *in.Limit
}

// selector puts a Selector in. The error names the field as the caller knows it, with
// "select." before it, and only errors of these fields do.
func (s *setter[T]) selector(sel *selector) {
	if sel == nil {
		return
	}
	before := s.err
	s.err = nil
	given(s, api.ArgOwner, sel.Owner)
	given(s, api.ArgLockID, sel.LockID)
	given(s, api.ArgToken, sel.Token)
	s.lock(api.ArgLock, sel.Lock)
	var e *api.Error
	if errors.As(s.err, &e) && e.Argument != "" {
		e.Argument = "select." + api.Argument(field(e.Argument))
	}
	if before != nil {
		s.err = before
	}
}

// options puts the fields that Acquire and AcquireMany share in. A lock of lifetime
// process without processId is that of the process that has connected. Its start time is
// added where the kernel can tell it, because the pid alone may be another process's by
// now.
func (s *setter[T]) options(o *options, w *wire.Call) {
	given(s, api.ArgOwner, o.Owner)
	given(s, api.ArgLifetime, o.Lifetime)
	given(s, api.ArgPID, o.ProcessID)
	given(s, api.ArgStartTime, o.ProcessStartTicks)
	given(s, api.ArgOnLost, o.OnLost)
	given(s, api.ArgOnLostData, o.OnLostData)
	if o.Lifetime == nil || *o.Lifetime != "process" || o.ProcessID != nil || o.ProcessStartTicks != nil {
		return
	}
	// The kernel ties the process to the connection, and not only its pid (SO_PEERPIDFD).
	if start, err := w.Conn.Peer.Start(); err == nil {
		s.set(api.ArgStartTime, start)
	}
}

// done returns the method, or what is wrong with the fields.
func (s *setter[T]) done(op string) (*T, error) {
	var e *api.Error
	if errors.As(s.err, &e) {
		e.Op = op
	}
	return s.into, s.err
}

// wanted is a lock that a call is about; the error is about its mode.
func wanted(n name, mode string) (api.Want, error) {
	m, err := frontend.ParseMode(mode)
	return api.Want{Lockspace: n.Lockspace, Resource: n.Resource, Mode: m}, err
}

// about completes an error about a mode.
func about(err error, op string, n name) error {
	var e *api.Error
	if errors.As(err, &e) {
		e.Op, e.Lockspace, e.Resource = op, n.Lockspace, n.Resource
	}
	return err
}

func isTrue(b *bool) bool { return b != nil && *b }
