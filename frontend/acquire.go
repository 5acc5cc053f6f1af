package frontend

import (
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Acquire takes one lock.
type Acquire struct {
	Want    api.Want
	Options api.AcquireOptions
}

// AcquireOptions are the options of Acquire.
var AcquireOptions = append(
	acquireOptions(func(m *Acquire) *api.AcquireOptions { return &m.Options }),
	value(func(m *Acquire) **dlm.Value { return &m.Options.Value }),
	wait(func(m *Acquire) *time.Duration { return &m.Options.Wait }))

// wait is the option wait.
func wait[T any](field func(*T) *time.Duration) Option[T] {
	return Option[T]{api.ArgWait, Microseconds, func(into *T, v any) error {
		us := v.(uint64)
		if us > uint64(api.MaxWait/time.Microsecond) {
			return bad(api.ArgWait, "%d is more than %d (%v); ask again after a timeout to wait longer",
				us, api.MaxWait/time.Microsecond, api.MaxWait)
		}
		*field(into) = time.Duration(us) * time.Microsecond
		return nil
	}}
}

// Op implements Method.
func (*Acquire) Op() string { return "acquire" }

// Cost implements Method.
func (*Acquire) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *Acquire) Validate() error {
	if err := checkWant(&m.Want); err != nil {
		return invalid(m.Op(), err)
	}
	return invalid(m.Op(), checkAcquire(&m.Options))
}

// Run takes the lock.
func (m *Acquire) Run(c *Call, done func(api.Grant, error)) {
	if err := c.Authorize(api.ActAcquire, wanted(m.Op(), &m.Want, m.Options.Owner)); err != nil {
		done(api.Grant{}, err)
		return
	}
	c.core.service.Acquire(c.Caller(), []api.Want{m.Want}, m.Options, func(grants []api.Grant, err error) {
		defer c.Contain()
		var g api.Grant
		if err == nil {
			g = grants[0]
		}
		done(g, err)
	})
}

// wanted is what a call is about that wants a lock.
func wanted(op string, w *api.Want, owner string) About {
	return About{Op: op, Lockspace: w.Lockspace, Resource: w.Resource, Mode: w.Mode.String(), Owner: owner}
}

// AcquireMany takes several locks, or none.
type AcquireMany struct {
	Wants   []api.Want
	Options api.AcquireOptions
}

// AcquireManyOptions are the options of AcquireMany.
var AcquireManyOptions = slices.Concat(
	acquireOptions(func(m *AcquireMany) *api.AcquireOptions { return &m.Options }),
	[]Option[AcquireMany]{
		{api.ArgLabels, Texts, func(m *AcquireMany, v any) error {
			m.Options.Labels = v.([]string)
			return checkLabels(m.Options.Labels)
		}},
		wait(func(m *AcquireMany) *time.Duration { return &m.Options.Wait }),
	})

// Op implements Method.
func (*AcquireMany) Op() string { return "acquire" }

// Cost implements Method.
func (m *AcquireMany) Cost() Cost {
	return Cost{Locks: max(len(m.Wants), 1) - 1, Weight: int32(len(m.Wants) / 64)}
}

// Validate implements Method.
func (m *AcquireMany) Validate() error {
	if len(m.Wants) > MaxLocks {
		return tooManyLocks(m.Op())
	}
	for i := range m.Wants {
		if err := checkWant(&m.Wants[i]); err != nil {
			return invalid(m.Op(), err)
		}
	}
	return invalid(m.Op(), checkAcquire(&m.Options))
}

// Run takes the locks. The grants come in the order of Wants.
func (m *AcquireMany) Run(c *Call, done func([]api.Grant, error)) {
	for i := range m.Wants {
		if err := c.Authorize(api.ActAcquire, wanted(m.Op(), &m.Wants[i], m.Options.Owner)); err != nil {
			done(nil, err)
			return
		}
	}
	c.core.service.Acquire(c.Caller(), m.Wants, m.Options, contained(c, done))
}

// Convert changes the mode of a lock of the caller in place.
type Convert struct {
	Want     api.Want
	Selector api.Selector // which of the resource's locks, where there are several
	Options  api.ConvertOptions
}

// ConvertOptions are the options of Convert.
var ConvertOptions = append(
	selectorOptions(func(m *Convert) *api.Selector { return &m.Selector }),
	wait(func(m *Convert) *time.Duration { return &m.Options.Wait }),
	value(func(m *Convert) **dlm.Value { return &m.Options.Value }))

// Op implements Method.
func (*Convert) Op() string { return "convert" }

// Cost implements Method.
func (*Convert) Cost() Cost { return Cost{} }

// Validate implements Method.
func (m *Convert) Validate() error {
	if err := checkWant(&m.Want); err != nil {
		return invalid(m.Op(), err)
	}
	if err := checkOwner(m.Selector.Owner, m.Selector.HasOwner); err != nil {
		return invalid(m.Op(), err)
	}
	return invalid(m.Op(), checkWait(m.Options.Wait))
}

// Run converts the lock. A stronger mode is as much as a new lock, so it takes
// the same authorisation.
func (m *Convert) Run(c *Call, done func(api.Grant, error)) {
	if err := c.Authorize(api.ActAcquire, wanted(m.Op(), &m.Want, m.Selector.Owner)); err != nil {
		done(api.Grant{}, err)
		return
	}
	c.core.service.Convert(c.Caller(), m.Want, m.Selector, m.Options, contained(c, done))
}
