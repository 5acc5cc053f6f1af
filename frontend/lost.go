package frontend

import (
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// ListLost lists locks that were lately lost on this node, the last one first,
// also those of lockspaces that were left since.
type ListLost struct{ Filter api.Filter } // Lockspace, Resource, Owner, UID and Limit count

const (
	// MaxLost is how many lost locks one call lists.
	MaxLost = 1000
	// shownLost is how many it lists where no limit is given.
	shownLost = 256
)

// ListLostOptions are the options of ListLost.
var ListLostOptions = []Option[ListLost]{
	filterLockspace(func(m *ListLost) *api.Filter { return &m.Filter }),
	filterResource(func(m *ListLost) *api.Filter { return &m.Filter }),
	owner(func(m *ListLost) (*string, *bool) { return &m.Filter.Owner, &m.Filter.HasOwner }),
	uid(func(m *ListLost) (*uint32, *bool) { return &m.Filter.UID, &m.Filter.HasUID }),
	filterLimit(func(m *ListLost) *api.Filter { return &m.Filter }, badLostLimit),
}

func badLostLimit() error { return bad(api.ArgLimit, "a list has 1 to %d lost locks", MaxLost) }

// Op implements Method.
func (*ListLost) Op() string { return "list-lost" }

// Cost implements Method.
func (*ListLost) Cost() Cost { return Cost{Room: LongAnswer} }

// Validate implements Method.
func (m *ListLost) Validate() error { return checkFilter(m.Op(), &m.Filter, MaxLost, badLostLimit) }

// Run lists the locks.
func (m *ListLost) Run(c *Call, done func([]api.Lost, error)) {
	w := About{Op: m.Op(), Lockspace: m.Filter.Lockspace, Resource: m.Filter.Resource}
	if err := c.Authorize(api.ActInspect, w); err != nil {
		done(nil, err)
		return
	}
	f := m.Filter
	if f.Limit == 0 {
		f.Limit = shownLost
	}
	c.core.service.Lost(f, contained(c, done))
}
