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
	// Empty names are given, and wrong: in the filter they would stand for all.
	{api.ArgLockspace, Text, func(m *ListWaits, v any) error {
		m.Filter.Lockspace = v.(string)
		return checkLockspace(m.Filter.Lockspace)
	}},
	{api.ArgResource, Text, func(m *ListWaits, v any) error {
		m.Filter.Resource = v.(string)
		return checkResource("", m.Filter.Resource)
	}},
	owner(func(m *ListWaits) (*string, *bool) { return &m.Filter.Owner, &m.Filter.HasOwner }),
	uid(func(m *ListWaits) (*uint32, *bool) { return &m.Filter.UID, &m.Filter.HasUID }),
	ref(api.ArgAfter, func(m *ListWaits) *api.Ref { return &m.Filter.After }),
	{api.ArgLimit, Uint32, func(m *ListWaits, v any) error {
		if m.Filter.Limit = int(v.(uint32)); m.Filter.Limit == 0 {
			return badLimit()
		}
		return nil
	}},
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
