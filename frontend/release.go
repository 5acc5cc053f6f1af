package frontend

import (
	"cmp"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Release releases one lock. Releasing your own lock needs no authorisation.
type Release struct {
	Lockspace, Resource string
	Selector            api.Selector // which of the resource's locks, where there are several
	Reason              string       // logged
}

// ReleaseOptions are the options of Release.
var ReleaseOptions = append(
	selectorOptions(func(m *Release) *api.Selector { return &m.Selector }),
	reason(func(m *Release) *string { return &m.Reason }))

// Op implements Method.
func (*Release) Op() string { return "release" }

// Cost implements Method.
func (*Release) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *Release) Validate() error {
	if err := checkNames(m.Lockspace, m.Resource); err != nil {
		return invalid(m.Op(), err)
	}
	return invalid(m.Op(), cmp.Or(checkOwner(m.Selector.Owner, m.Selector.HasOwner), checkReason(m.Reason)))
}

// Run releases the lock.
func (m *Release) Run(c *Call, done func(error)) {
	w := About{Op: m.Op(), Lockspace: m.Lockspace, Resource: m.Resource, Owner: m.Selector.Owner}
	c.othersToo(w, func(who api.Caller, done func(error)) {
		c.core.service.Release(who, m.Lockspace, m.Resource, m.Selector, done)
	}, withReason(c, w, m.Reason, done))
}

// ReleaseOwner releases everything of one owner of the caller's uid; where root
// calls, of the owners of that name of every uid.
type ReleaseOwner struct {
	Lockspace string // "" means all
	Owner     string
}

// Op implements Method.
func (*ReleaseOwner) Op() string { return "release-owner" }

// Cost implements Method.
func (*ReleaseOwner) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *ReleaseOwner) Validate() error {
	if m.Lockspace != "" {
		if err := checkLockspace(m.Lockspace); err != nil {
			return invalid(m.Op(), err)
		}
	}
	return invalid(m.Op(), needOwner(m.Owner, "the owner is empty"))
}

// needOwner is checkOwner where an owner must be given.
func needOwner(owner, text string) error {
	if owner == "" {
		return &api.Error{Kind: api.InvalidArgs, Mode: dlm.None, Argument: api.ArgOwner, Hint: api.HintReleaseOne, Text: text}
	}
	return checkOwner(owner, true)
}

// Run releases the locks and says how many they were.
func (m *ReleaseOwner) Run(c *Call, done func(released uint32, err error)) {
	c.core.service.ReleaseOwner(c.Caller(), m.Lockspace, m.Owner, contained(c, func(released uint32, err error) {
		c.payLocks(int(released))
		done(released, err)
	}))
}

// ReleaseMany releases what one owner of the caller's uid holds of some
// resources, and on any resource with one of some labels. It is about the
// caller's own locks, so it needs no authorisation.
type ReleaseMany struct {
	Resources []api.Want // without modes
	Owner     string
	Labels    []string
	Reason    string // logged
}

// ReleaseManyOptions are the options of ReleaseMany. The owner is required.
var ReleaseManyOptions = []Option[ReleaseMany]{
	text(api.ArgOwner, func(m *ReleaseMany) *string { return &m.Owner }),
	{api.ArgLabels, Texts, func(m *ReleaseMany, v any) error {
		m.Labels = v.([]string)
		if len(m.Labels) > MaxLocks {
			return tooManyLocks(m.Op())
		}
		return checkLabels(m.Labels)
	}},
	reason(func(m *ReleaseMany) *string { return &m.Reason }),
}

// Op implements Method.
func (*ReleaseMany) Op() string { return "release" }

// Cost implements Method.
func (m *ReleaseMany) Cost() Cost {
	return Cost{Locks: len(m.Resources), Weight: int32((len(m.Resources) + len(m.Labels)) / 64)}
}

// Validate implements Method.
func (m *ReleaseMany) Validate() error {
	if len(m.Resources) > MaxLocks || len(m.Labels) > MaxLocks {
		return tooManyLocks(m.Op())
	}
	for i := range m.Resources {
		if err := checkNames(m.Resources[i].Lockspace, m.Resources[i].Resource); err != nil {
			return invalid(m.Op(), err)
		}
	}
	if err := cmp.Or(checkLabels(m.Labels), checkReason(m.Reason)); err != nil {
		return invalid(m.Op(), err)
	}
	return invalid(m.Op(), needOwner(m.Owner, "it is missing or empty"))
}

// Run releases the locks and says how many they were.
func (m *ReleaseMany) Run(c *Call, done func(released uint32, err error)) {
	w := About{Op: m.Op(), Owner: m.Owner}
	c.core.service.ReleaseMany(c.Caller(), m.Resources, m.Owner, m.Labels,
		contained(c, countedWithReason(c, w, m.Reason, done)))
}
