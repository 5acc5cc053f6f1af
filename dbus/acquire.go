package dbus

import (
	"fmt"
	"slices"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// rootMethods are the members of the root object.
func rootMethods() []*method {
	return []*method{
		{name: "Acquire", in: "sssa{sv}", out: "uto", parse: parseAcquire},
		{name: "AcquireMany", in: "a(sss)a{sv}", out: "a(ssuto)", parse: parseAcquireMany},
		{name: "Request", in: "sssa{sv}", out: "o", parse: parseRequest},
		{name: "Convert", in: "sssa{sv}", out: "t", parse: parseConvert},
		{name: "Release", in: "ssa{sv}", parse: parseRelease},
		{name: "ReleaseOwner", in: "ss", out: "u", parse: parseReleaseOwner},
		{name: "ReleaseMany", in: "a(ss)a{sv}", out: "u", parse: parseReleaseMany},
		{name: "Inspect", in: "ss", out: "a{sv}", parse: parseInspect},
		{name: "ListLocks", in: "a{sv}", out: "a(ossussstsssuut)", parse: parseListLocks},
		{name: "ListLockspaces", out: "a(ssuia{sv})", parse: parseListLockspaces},
		{name: "JoinLockspace", in: "sa{sv}", parse: parseJoin},
		{name: "LeaveLockspace", in: "sa{sv}", parse: parseLeave},
		{name: "ListOrphans", in: "s", out: "a(ussa{sv})", parse: parseListOrphans},
		{name: "AdoptOrphan", in: "sua{sv}", out: "to", parse: parseAdoptOrphan},
		{name: "Purge", in: "saua{sv}", out: "u", parse: parsePurge},
		{name: "Subscribe", parse: parseSubscribe},
		{name: "Unsubscribe", parse: parseUnsubscribe},
	}
}

// acquireOptions are the options of Acquire and AcquireMany.
var acquireOptions = []option[api.AcquireOptions]{
	{"owner", "s", setOwner(func(o *api.AcquireOptions) (*string, *bool) { return &o.Owner, &o.HasOwner })},
	{"label", "s", setText(func(o *api.AcquireOptions) *string { return &o.Label })},
	{"lifetime", "s", setLifetime},
	{"pid", "u", setPID},
	{"start-time", "t", func(o *api.AcquireOptions, v any) error { o.Start, o.HasStart = v.(uint64), true; return nil }},
	{"on-lost", "s", func(o *api.AcquireOptions, v any) error { onLost(o).Helper = v.(string); return nil }},
	{"on-lost-data", "s", func(o *api.AcquireOptions, v any) error { onLost(o).Data = v.(string); return nil }},
	{"value", "ay", setValue(func(o *api.AcquireOptions) **dlm.Value { return &o.Value })},
	{"wait-usec", "t", setWait(func(o *api.AcquireOptions) *time.Duration { return &o.Wait })},
}

// acquireManyOptions are the options of AcquireMany.
var acquireManyOptions = append(
	slices.DeleteFunc(slices.Clone(acquireOptions), func(o option[api.AcquireOptions]) bool { return o.key == "value" }),
	option[api.AcquireOptions]{"labels", "as", setLabels})

// onLost is what is to be done on a loss, made if need be.
func onLost(o *api.AcquireOptions) *api.OnLost {
	if o.OnLost == nil {
		o.OnLost = new(api.OnLost)
	}
	return o.OnLost
}

func setLabels(o *api.AcquireOptions, v any) (err error) {
	o.Labels, err = v.([]string), checkLabels(v.([]string))
	return err
}

func checkLabels(labels []string) error {
	for _, label := range labels {
		if len(label) > maxText {
			return errText(fmt.Sprintf("one has %d bytes, at most %d are allowed", len(label), maxText))
		}
	}
	return nil
}

func setLifetime(o *api.AcquireOptions, v any) error {
	l, ok := state.ParseLifetime(v.(string))
	if !ok {
		return errText(`"` + clip(v.(string)) + `" is not one of persistent, connection, process`)
	}
	o.Lifetime = l
	return nil
}

func setPID(o *api.AcquireOptions, v any) error {
	if o.PID = v.(uint32); o.PID == 0 {
		return errText("0 is no process; leave the option out for the caller")
	}
	return nil
}

// acquire is Acquire, and AcquireMany with many.
type acquire struct {
	wants []api.Want
	opts  api.AcquireOptions
	many  bool
}

func parseAcquire(body *reader) (request, error) {
	r := &acquire{wants: make([]api.Want, 1)}
	var err error
	if r.wants[0], err = parseWant("acquire", body); err != nil {
		return nil, err
	}
	return r, r.options(body)
}

func parseAcquireMany(body *reader) (request, error) {
	r := &acquire{many: true}
	for end := body.array(8); body.more(end); {
		body.align(8)
		w, err := parseWant("acquire", body)
		if err != nil {
			return nil, err
		}
		if len(r.wants) == MaxWanted {
			return nil, tooMany("acquire")
		}
		r.wants = append(r.wants, w)
	}
	return r, r.options(body)
}

func tooMany(op string) error {
	return &api.Error{Op: op, Kind: api.LimitExceeded, Mode: dlm.None,
		Text: fmt.Sprintf("more than %d locks in one call; ask for them in several", MaxWanted)}
}

func (r *acquire) work() int { return max(len(r.wants), 1) - 1 }

func (r *acquire) weight() int32 { return int32(len(r.wants) / 64) }

func (r *acquire) options(body *reader) error {
	known := acquireOptions
	if r.many {
		known = acquireManyOptions
	}
	if err := parseOptions("acquire", known, body, &r.opts); err != nil {
		return err
	}
	return checkTogether("acquire", &r.opts)
}

// checkTogether checks the options that need another one.
func checkTogether(op string, o *api.AcquireOptions) error {
	if (o.PID != 0 || o.HasStart) && o.Lifetime != state.Process {
		return invalid(op, `the options pid and start-time need the option lifetime "process"`)
	}
	if o.OnLost != nil && o.OnLost.Helper == "" {
		return invalid(op, "option on-lost: the name of a helper is missing")
	}
	return nil
}

// parseWant reads lockspace, resource and mode.
func parseWant(op string, body *reader) (api.Want, error) {
	w := api.Want{Lockspace: body.text(), Resource: body.text()}
	if err := checkNames(op, w.Lockspace, w.Resource); err != nil {
		return w, err
	}
	var err error
	w.Mode, err = parseMode(op, w.Lockspace, w.Resource, body.text())
	return w, err
}

// wanted is what a call is about that wants a lock.
func wanted(op string, w api.Want, owner string) about {
	return about{op: op, lockspace: w.Lockspace, resource: w.Resource, mode: w.Mode.String(), owner: owner}
}

func (r *acquire) serve(c *call) {
	for _, w := range r.wants {
		if err := c.authorize(api.ActAcquire, wanted("acquire", w, r.opts.Owner)); err != nil {
			c.fail(err)
			return
		}
	}
	c.srv.api.Acquire(c.caller(), r.wants, r.opts, func(grants []api.Grant, err error) {
		defer c.contain()
		switch {
		case err != nil:
			c.fail(err)
		case r.many:
			c.reply(grantRows(grants))
		default:
			g := &grants[0]
			c.reply(uint32(g.LockID), g.Token, lockPath(g.Ref))
		}
	})
}

// grantRow is a lock in the answer of AcquireMany: (ssuto).
type grantRow struct {
	Lockspace, Resource string
	LockID              uint32
	Token               uint64
	Lock                godbus.ObjectPath
}

func grantRows(grants []api.Grant) []grantRow {
	rows := make([]grantRow, len(grants))
	for i, g := range grants {
		rows[i] = grantRow{printable(g.Lockspace), printable(g.Resource), uint32(g.LockID), g.Token, lockPath(g.Ref)}
	}
	return rows
}
