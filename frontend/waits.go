package frontend

import (
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// ListWaits lists the locks of this service that stand in a queue, with what each
// waits for, a page at a time. WaitsPage.Next is the Filter.After of the next page,
// or 0 at the end.
type ListWaits struct{ Filter api.Filter } // Lockspace, Resource, Owner, UID, After and Limit count

// ListWaitsOptions are the options of ListWaits.
var ListWaitsOptions = []Option[ListWaits]{
	filterLockspace(func(m *ListWaits) *api.Filter { return &m.Filter }),
	filterResource(func(m *ListWaits) *api.Filter { return &m.Filter }),
	owner(func(m *ListWaits) (*string, *bool) { return &m.Filter.Owner, &m.Filter.HasOwner }),
	uid(func(m *ListWaits) (*uint32, *bool) { return &m.Filter.UID, &m.Filter.HasUID }),
	ref(api.ArgAfter, func(m *ListWaits) *api.Ref { return &m.Filter.After }),
	filterLimit(func(m *ListWaits) *api.Filter { return &m.Filter }, badLimit),
}

// Op implements Method.
func (*ListWaits) Op() string { return "list-waits" }

// Cost implements Method. The lock manager's tables are looked through.
func (*ListWaits) Cost() Cost { return Cost{Locks: 16, Room: LongAnswer} }

// Validate implements Method.
func (m *ListWaits) Validate() error { return checkFilter(m.Op(), &m.Filter, MaxPage, badLimit) }

// Run lists a page.
func (m *ListWaits) Run(c *Call, done func(api.WaitsPage, error)) {
	w := About{Op: m.Op(), Lockspace: m.Filter.Lockspace, Resource: m.Filter.Resource}
	if err := c.Authorize(api.ActInspect, w); err != nil {
		done(api.WaitsPage{}, err)
		return
	}
	c.core.service.Waits(m.Filter, contained(c, func(page api.WaitsPage, err error) {
		if err == nil {
			c.core.sched.charge(c.session.user.account, lookCost*int64(page.Looked))
			c.payLocks(len(page.Waiters)) // a value block may have been read for each
		}
		done(page, err)
	}))
}
