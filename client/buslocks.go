package client

import (
	"context"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/process"
)

// variants are the options of Acquire, AcquireMany and Request. Zero options are left out, because
// an older service refuses options that it does not know, even empty ones.
func (o *Options) variants(wait time.Duration) map[string]godbus.Variant {
	m := map[string]godbus.Variant{}
	set(m, "owner", o.Owner)
	set(m, "label", o.Label)
	set(m, "lifetime", o.Lifetime)
	setProcess(m, o.PID)
	set(m, "on-lost", o.OnLost)
	set(m, "on-lost-data", o.OnLostData)
	setValue(m, o.Value)
	set(m, "wait-usec", uint64(wait/time.Microsecond))
	return m
}

// setProcess adds the pid of a process and its start time, if /proc has it. The start time tells
// the process from a later one with the same pid.
func setProcess(m map[string]godbus.Variant, pid uint32) {
	if pid == 0 {
		return
	}
	m["pid"] = godbus.MakeVariant(pid)
	if start, err := process.Start(pid); err == nil {
		m["start-time"] = godbus.MakeVariant(start)
	}
}

// setValue adds a value, even an empty one; nil means no value.
func setValue(m map[string]godbus.Variant, value []byte) {
	if value != nil {
		m["value"] = godbus.MakeVariant(value)
	}
}

func (s *Selector) variants() map[string]godbus.Variant {
	m := map[string]godbus.Variant{}
	set(m, "owner", s.Owner)
	set(m, "lockid", s.LockID)
	set(m, "token", s.Token)
	set(m, "lock", s.Lock)
	return m
}

// set adds an option unless it is zero.
func set[T comparable](m map[string]godbus.Variant, key string, v T) {
	var zero T
	if v != zero {
		m[key] = godbus.MakeVariant(v)
	}
}

func (b *bus) acquire(ctx context.Context, w Want, o Options, wait time.Duration) (Grant, error) {
	g := Grant{Lockspace: w.Lockspace, Resource: w.Resource, Mode: dlm.Canonical(w.Mode)}
	err := b.call(ctx, "Acquire", []any{&g.LockID, &g.Token, &g.Lock}, w.Lockspace, w.Resource, w.Mode, o.variants(wait))
	return g, err
}

func (b *bus) acquireMany(ctx context.Context, want []Want, o Options, wait time.Duration) ([]Grant, error) {
	var rows []struct {
		Lockspace, Resource string
		LockID              uint32
		Token               uint64
		Lock                LockName
	}
	if err := b.call(ctx, "AcquireMany", []any{&rows}, want, o.variants(wait)); err != nil {
		return nil, err
	}
	grants := make([]Grant, len(rows))
	for i, r := range rows {
		grants[i] = Grant{r.Lockspace, r.Resource, "", r.LockID, r.Token, r.Lock} // the caller adds the mode
	}
	return grants, nil
}

func (b *bus) convert(ctx context.Context, w Want, s Selector, wait time.Duration,
	value []byte) (token uint64, err error) {
	o := s.variants()
	setValue(o, value)
	set(o, "wait-usec", uint64(wait/time.Microsecond))
	err = b.call(ctx, "Convert", []any{&token}, w.Lockspace, w.Resource, w.Mode, o)
	return token, err
}

func (b *bus) release(ctx context.Context, lockspace, resource string, s Selector) error {
	return b.call(ctx, "Release", nil, lockspace, resource, s.variants())
}

func (b *bus) releaseOwner(ctx context.Context, lockspace, owner string) (released uint32, err error) {
	err = b.call(ctx, "ReleaseOwner", []any{&released}, lockspace, owner)
	return released, err
}

func (b *bus) releaseMany(ctx context.Context, resources []Want, owner string) (released uint32, err error) {
	rows := make([]struct{ Lockspace, Resource string }, len(resources))
	for i, w := range resources {
		rows[i].Lockspace, rows[i].Resource = w.Lockspace, w.Resource
	}
	s := Selector{Owner: owner}
	err = b.call(ctx, "ReleaseMany", []any{&released}, rows, s.variants())
	return released, err
}
