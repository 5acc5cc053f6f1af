package dbus

import (
	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// lockspaceIface is the interface of a lockspace. The counts change with every lock and are
// therefore not signaled (emitsFalse).
var lockspaceIface = newIface(lockspaceIfaceName, []property{
	text("Name", emitsConst, func(sp *api.LockspaceInfo) string { return sp.Name }),
	text("State", emitsTrue, func(sp *api.LockspaceInfo) string { return sp.State.String() }),
	text("Error", emitsTrue, func(sp *api.LockspaceInfo) string { return sp.Error }),
	text("Stopped", emitsTrue, func(sp *api.LockspaceInfo) string { return known(sp.HasHealth, sp.Health.Stopped) }),
	text("Quorate", emitsTrue, func(sp *api.LockspaceInfo) string {
		return known(sp.HasHealth && sp.Health.Known, sp.Health.Quorate)
	}),
	text("Reason", emitsTrue, func(sp *api.LockspaceInfo) string { return sp.Health.Reason }),
	prop("Members", "au", emitsTrue, func(_ *Server, sp *api.LockspaceInfo) any { return members(&sp.Health) }),
	prop("Recovery", "u", emitsTrue, func(_ *Server, sp *api.LockspaceInfo) any { return sp.Health.Recovery }),
	prop("LockCount", "u", emitsFalse, func(_ *Server, sp *api.LockspaceInfo) any { return uint32(sp.Locks) }),
	prop("Orphans", "i", emitsFalse, func(_ *Server, sp *api.LockspaceInfo) any { return int32(sp.Orphans) }),
}, &method{name: "Leave", in: "a{sv}", parse: parseSpaceLeave})

// known is a yes or no that may be unknown: a property can't be left out.
func known(known, yes bool) string {
	switch {
	case !known:
		return "unknown"
	case yes:
		return "yes"
	}
	return "no"
}

// members is never nil, which has no signature.
func members(h *dlm.Health) []uint32 {
	if h.Members == nil {
		return []uint32{}
	}
	return h.Members
}

// spacePath is the object path of a lockspace.
func spacePath(name string) godbus.ObjectPath {
	return godbus.ObjectPath(LockspacePrefix + escape(name))
}

// spaces asks the service for its lockspaces.
func (c *call) spaces() ([]api.LockspaceInfo, error) {
	type answer struct {
		spaces []api.LockspaceInfo
		err    error
	}
	a, err := ask(c, func(done func(answer)) {
		c.srv.service().Lockspaces(func(spaces []api.LockspaceInfo, err error) { done(answer{spaces, err}) })
	})
	if err == nil {
		err = a.err
	}
	return a.spaces, err
}

// findSpace finds the lockspace whose object is called. There are few, so they are gone through.
// Its name is looked up with each call: the object is the lockspace of that name, even after
// this node has left it and joined it again.
func (c *call) findSpace() (*api.LockspaceInfo, error) {
	spaces, err := c.spaces()
	if err != nil {
		return nil, err
	}
	name, ok := unescape(c.id)
	for i := range spaces {
		if ok && spaces[i].Name == name {
			return &spaces[i], nil
		}
	}
	return nil, c.noObject("lockspace")
}

func lookSpace(c *call) (any, error) { return c.findSpace() }

// spaceChildren are the names of the objects of lockspaces, for Introspect.
func spaceChildren(c *call) ([]string, error) {
	spaces, err := c.spaces()
	names := make([]string, 0, min(len(spaces), MaxListed))
	for i := range spaces[:min(len(spaces), MaxListed)] {
		names = append(names, escape(spaces[i].Name))
	}
	return names, err
}

// leaveSpace is LeaveLockspace of the root object, with this one named.
type leaveSpace struct{ leave }

func parseSpaceLeave(body *reader) (request, error) {
	r := new(leaveSpace)
	return r, parseOptions("leave", frontend.LeaveOptions, body, &r.Leave)
}

// Validate implements frontend.Method. The name is not known yet; serve has it from the service,
// so there is nothing to validate.
func (*leaveSpace) Validate() error { return nil }

func (r *leaveSpace) serve(c *call) {
	sp, err := c.findSpace()
	if err != nil {
		c.Fail(err)
		return
	}
	r.Lockspace = sp.Name
	r.leave.serve(c)
}
