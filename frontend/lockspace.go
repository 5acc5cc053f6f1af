package frontend

import (
	"cmp"
	"fmt"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// ListLockspaces lists the lockspaces of the service.
type ListLockspaces struct{}

// Op implements Method.
func (*ListLockspaces) Op() string { return "list-lockspaces" }

// Cost implements Method.
func (*ListLockspaces) Cost() Cost { return Cost{} }

// Validate implements Method.
func (*ListLockspaces) Validate() error { return nil }

// Run lists the lockspaces.
func (m *ListLockspaces) Run(c *Call, done func([]api.LockspaceInfo, error)) {
	if err := c.Authorize(api.ActInspect, About{Op: m.Op()}); err != nil {
		done(nil, err)
		return
	}
	c.core.service.Lockspaces(contained(c, done))
}

// Join joins a lockspace.
type Join struct{ Lockspace string }

// JoinOptions are the options of Join: none so far.
var JoinOptions []Option[Join]

// Op implements Method.
func (*Join) Op() string { return "join" }

// Cost implements Method.
func (*Join) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *Join) Validate() error { return invalid(m.Op(), checkLockspace(m.Lockspace)) }

// Run joins the lockspace.
func (m *Join) Run(c *Call, done func(error)) {
	if err := c.Authorize(api.ActManageLockspaces, About{Op: m.Op(), Lockspace: m.Lockspace}); err != nil {
		done(err)
		return
	}
	c.core.service.Join(c.Caller(), m.Lockspace, containedError(c, done))
}

// Leave leaves a lockspace.
type Leave struct {
	Lockspace string
	Force     bool   // also with locks held in it, which are lost then
	Reason    string // logged
}

// LeaveOptions are the options of Leave.
var LeaveOptions = []Option[Leave]{
	flag(api.ArgForce, func(m *Leave) *bool { return &m.Force }),
	reason(func(m *Leave) *string { return &m.Reason }),
}

// Op implements Method.
func (*Leave) Op() string { return "leave" }

// Cost implements Method.
func (*Leave) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *Leave) Validate() error {
	return invalid(m.Op(), cmp.Or(checkLockspace(m.Lockspace), checkReason(m.Reason)))
}

// Run leaves the lockspace.
func (m *Leave) Run(c *Call, done func(error)) {
	w := About{Op: m.Op(), Lockspace: m.Lockspace}
	if err := c.Authorize(api.ActManageLockspaces, w); err != nil {
		done(err)
		return
	}
	c.core.service.Leave(c.Caller(), m.Lockspace, m.Force, containedError(c, withReason(c, w, m.Reason, done)))
}

// ListOrphans lists the orphans of a lockspace that no record explains.
type ListOrphans struct{ Lockspace string }

// Op implements Method.
func (*ListOrphans) Op() string { return "list-orphans" }

// Cost implements Method.
func (*ListOrphans) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *ListOrphans) Validate() error { return invalid(m.Op(), checkLockspace(m.Lockspace)) }

// Run lists the orphans.
func (m *ListOrphans) Run(c *Call, done func([]api.Orphan, error)) {
	if err := c.Authorize(api.ActInspect, About{Op: m.Op(), Lockspace: m.Lockspace}); err != nil {
		done(nil, err)
		return
	}
	c.core.service.Orphans(m.Lockspace, contained(c, done))
}

// AdoptOrphan makes an orphan the lock of an owner.
type AdoptOrphan struct {
	Lockspace string
	LockID    dlm.LockID
	Options   api.AdoptOptions
}

// AdoptOptions are the options of AdoptOrphan.
var AdoptOptions = []Option[AdoptOrphan]{
	owner(func(m *AdoptOrphan) (*string, *bool) { return &m.Options.Owner, &m.Options.HasOwner }),
	text(api.ArgLabel, func(m *AdoptOrphan) *string { return &m.Options.Label }),
	uid(func(m *AdoptOrphan) (*uint32, *bool) { return &m.Options.UID, &m.Options.HasUID }),
	text(api.ArgResource, func(m *AdoptOrphan) *string { return &m.Options.Resource }),
	mode(func(m *AdoptOrphan) (*dlm.Mode, *bool) { return &m.Options.Mode, &m.Options.HasMode }),
}

// Op implements Method.
func (*AdoptOrphan) Op() string { return "adopt" }

// Cost implements Method.
func (*AdoptOrphan) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *AdoptOrphan) Validate() error {
	o := &m.Options
	var label error
	if len(o.Label) > MaxText {
		label = badText(api.ArgLabel, len(o.Label))
	}
	return invalid(m.Op(), cmp.Or(checkLockspace(m.Lockspace), checkOwner(o.Owner, o.HasOwner), label))
}

// Run adopts the orphan.
func (m *AdoptOrphan) Run(c *Call, done func(api.Grant, error)) {
	w := About{Op: m.Op(), Lockspace: m.Lockspace, Resource: m.Options.Resource, Owner: m.Options.Owner}
	if err := c.Authorize(api.ActPurge, w); err != nil {
		done(api.Grant{}, err)
		return
	}
	c.core.service.AdoptOrphan(c.Caller(), m.Lockspace, m.LockID, m.Options, contained(c, done))
}

// Purge removes the orphans of a lockspace if they still are exactly those that
// are expected.
type Purge struct {
	Lockspace string
	Expect    []dlm.LockID
	Some      bool   // removes those expected, if all of them are there, and no others
	Reason    string // logged
}

// PurgeOptions are the options of Purge.
var PurgeOptions = []Option[Purge]{
	flag(api.ArgSome, func(m *Purge) *bool { return &m.Some }),
	reason(func(m *Purge) *string { return &m.Reason }),
}

// Op implements Method.
func (*Purge) Op() string { return "purge" }

// Cost implements Method.
func (m *Purge) Cost() Cost { return Cost{Weight: int32(len(m.Expect) / 1024)} }

// Validate implements Method.
func (m *Purge) Validate() error {
	if len(m.Expect) > MaxPurge {
		return &api.Error{Op: m.Op(), Kind: api.InvalidArgs, Mode: dlm.None, Argument: api.ArgLockIDs,
			Text: fmt.Sprintf("more than %d lockids", MaxPurge)}
	}
	return invalid(m.Op(), cmp.Or(checkLockspace(m.Lockspace), checkReason(m.Reason)))
}

// Run removes the orphans and says how many they were.
func (m *Purge) Run(c *Call, done func(purged uint32, err error)) {
	w := About{Op: m.Op(), Lockspace: m.Lockspace}
	if err := c.Authorize(api.ActPurge, w); err != nil {
		done(0, err)
		return
	}
	c.core.service.Purge(c.Caller(), m.Lockspace, m.Expect, m.Some,
		contained(c, countedWithReason(c, w, m.Reason, done)))
}
