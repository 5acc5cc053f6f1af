package frontend

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Inspect tells all that is known of one resource, on this node or, with Node, on another one.
type Inspect struct {
	Lockspace, Resource string
	Node                uint32 // 0: this one
}

// Op implements Method.
func (*Inspect) Op() string { return "inspect" }

// Cost implements Method. The lock manager's tables are looked through.
func (*Inspect) Cost() Cost { return Cost{Locks: 16, Room: LongAnswer} }

// Validate implements Method.
func (m *Inspect) Validate() error { return invalid(m.Op(), checkNames(m.Lockspace, m.Resource)) }

// Run inspects the resource.
func (m *Inspect) Run(c *Call, done func(api.Inspection, error)) {
	if err := c.Authorize(api.ActInspect, About{Op: m.Op(), Lockspace: m.Lockspace, Resource: m.Resource}); err != nil {
		done(api.Inspection{}, err)
		return
	}
	if c.core.isElsewhere(m.Node) {
		c.core.elsewhere().Inspect(m.Node, m.Lockspace, m.Resource, contained(c, done))
		return
	}
	c.core.service.Inspect(m.Lockspace, m.Resource, contained(c, done))
}

// ListLocks lists locks, a page at a time, of this node or, with Node, of another one. Page.Next is
// the Filter.After of the next page, or 0 at the end.
type ListLocks struct {
	Filter api.Filter
	Node   uint32 // 0: this one
}

// ListOptions are the options of ListLocks.
var ListOptions = []Option[ListLocks]{
	filterLockspace(func(m *ListLocks) *api.Filter { return &m.Filter }),
	filterResource(func(m *ListLocks) *api.Filter { return &m.Filter }),
	owner(func(m *ListLocks) (*string, *bool) { return &m.Filter.Owner, &m.Filter.HasOwner }),
	uid(func(m *ListLocks) (*uint32, *bool) { return &m.Filter.UID, &m.Filter.HasUID }),
	mode(func(m *ListLocks) (*dlm.Mode, *bool) { return &m.Filter.Mode, &m.Filter.HasMode }),
	{api.ArgState, Text, func(m *ListLocks, v any) error {
		st, ok := api.ParseLockState(v.(string))
		if !ok {
			return bad(api.ArgState, `"%s" is not one of acquiring, held, converting, releasing`, Clip(v.(string)))
		}
		m.Filter.State = st
		return nil
	}},
	{api.ArgNode, Uint32, func(m *ListLocks, v any) error {
		if m.Node = v.(uint32); m.Node == 0 {
			return badNode()
		}
		return nil
	}},
	ref(api.ArgAfter, func(m *ListLocks) *api.Ref { return &m.Filter.After }),
	filterLimit(func(m *ListLocks) *api.Filter { return &m.Filter }, badLimit),
}

func badLimit() error { return bad(api.ArgLimit, "a page has 1 to %d locks", MaxPage) }

// Op implements Method.
func (*ListLocks) Op() string { return "list" }

// Cost implements Method.
func (*ListLocks) Cost() Cost { return Cost{Room: LongAnswer} }

// Validate implements Method.
func (m *ListLocks) Validate() error {
	return checkFilter(m.Op(), &m.Filter, MaxPage, badLimit)
}

// checkFilter is the validation of a list with a filter, of at most so many elements.
func checkFilter(op string, f *api.Filter, most int, badLimit func() error) error {
	if f.Lockspace != "" {
		if err := checkLockspace(f.Lockspace); err != nil {
			return invalid(op, err)
		}
	}
	if f.Resource != "" {
		if err := checkResource("", f.Resource); err != nil {
			return invalid(op, err)
		}
	}
	if f.Limit < 0 || f.Limit > most {
		return invalid(op, badLimit())
	}
	return invalid(op, checkOwner(f.Owner, f.HasOwner))
}

const (
	// MaxRows is how many locks one page is made of. No more than so many fit
	// into LongAnswer.
	MaxRows = 512
	// lookCost is what it costs to look at a lock, in bytes of answers.
	lookCost = 4
)

// Run lists a page.
func (m *ListLocks) Run(c *Call, done func(api.Page, error)) {
	w := About{Op: m.Op(), Lockspace: m.Filter.Lockspace, Resource: m.Filter.Resource}
	if err := c.Authorize(api.ActInspect, w); err != nil {
		done(api.Page{}, err)
		return
	}
	f := m.Filter
	if f.Limit == 0 || f.Limit > MaxRows {
		f.Limit = MaxRows
	}
	list := c.core.service.List
	if c.core.isElsewhere(m.Node) {
		list = func(f api.Filter, done func(api.Page, error)) { c.core.elsewhere().List(m.Node, f, done) }
	}
	list(f, contained(c, func(page api.Page, err error) {
		if err == nil {
			c.core.sched.charge(c.session.user.account, lookCost*int64(page.Looked))
		}
		done(page, err)
	}))
}
