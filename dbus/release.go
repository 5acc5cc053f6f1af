package dbus

import (
	"errors"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// convertOpts are the options of Convert.
type convertOpts struct {
	sel api.Selector
	api.ConvertOptions
}

var convertOptions = append(
	selectorOptions(func(o *convertOpts) *api.Selector { return &o.sel }),
	option[convertOpts]{"wait-usec", "t", setWait(func(o *convertOpts) *time.Duration { return &o.Wait })},
	option[convertOpts]{"value", "ay", setValue(func(o *convertOpts) **dlm.Value { return &o.Value })})

var releaseOptions = selectorOptions(func(s *api.Selector) *api.Selector { return s })

// selectorOptions are the options that say which lock of a resource is meant.
func selectorOptions[T any](field func(*T) *api.Selector) []option[T] {
	return []option[T]{
		{"owner", "s", setOwner(func(o *T) (*string, *bool) { return &field(o).Owner, &field(o).HasOwner })},
		{"lockid", "u", func(o *T, v any) error {
			if field(o).LockID = dlm.LockID(v.(uint32)); field(o).LockID == 0 {
				return errText("0 is no lockid")
			}
			return nil
		}},
		{"token", "t", func(o *T, v any) error {
			field(o).Token = v.(uint64)
			return nil
		}},
		{"lock", "o", setLock(func(o *T) *api.Ref { return &field(o).Ref })},
	}
}

type convert struct {
	want api.Want
	opts convertOpts
}

func parseConvert(body *reader) (request, error) {
	w, err := parseWant("convert", body)
	if err != nil {
		return nil, err
	}
	r := &convert{want: w}
	return r, parseOptions("convert", convertOptions, body, &r.opts)
}

// serve: a stronger mode is as much as a new lock, so it takes the same
// authorisation.
func (r *convert) serve(c *call) {
	if err := c.authorize(api.ActAcquire, wanted("convert", r.want, r.opts.sel.Owner)); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.Convert(c.caller(), r.want, r.opts.sel, r.opts.ConvertOptions, func(g api.Grant, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.reply(g.Token)
	})
}

type release struct {
	lockspace, resource string
	sel                 api.Selector
}

func parseRelease(body *reader) (request, error) {
	r := &release{lockspace: body.text(), resource: body.text()}
	if err := checkNames("release", r.lockspace, r.resource); err != nil {
		return nil, err
	}
	return r, parseOptions("release", releaseOptions, body, &r.sel)
}

// serve: whose the lock is, the service knows. So it is asked first, as the
// caller alone; the authoriser only where the lock is another user's.
func (r *release) serve(c *call) { r.release(c, c.caller()) }

func (r *release) release(c *call, who api.Caller) {
	c.srv.api.Release(who, r.lockspace, r.resource, r.sel, func(err error) {
		defer c.contain()
		switch {
		case err == nil:
			c.reply()
		case errors.Is(err, api.AccessDenied) && !who.Privileged:
			go r.releaseOthers(c, who)
		default:
			c.fail(err)
		}
	})
}

// releaseOthers asks the authoriser, which may take its time, and tries again.
func (r *release) releaseOthers(c *call, who api.Caller) {
	defer c.contain()
	if err := c.authorize(api.ActReleaseOthers, about{op: "release", lockspace: r.lockspace, resource: r.resource, owner: r.sel.Owner}); err != nil {
		c.fail(err)
		return
	}
	who.Privileged = true
	r.release(c, who)
}

type releaseOwner struct{ lockspace, owner string }

func parseReleaseOwner(body *reader) (request, error) {
	r := &releaseOwner{lockspace: body.text(), owner: body.text()}
	if r.lockspace != "" {
		if err := checkSpace("release-owner", r.lockspace); err != nil {
			return nil, err
		}
	}
	if r.owner == "" {
		return nil, invalid("release-owner", "the owner is empty; locks without owner are released one by one with Release")
	}
	if len(r.owner) > maxText {
		return nil, invalid("release-owner", "the owner has %d bytes, at most %d are allowed", len(r.owner), maxText)
	}
	return r, nil
}

func (r *releaseOwner) serve(c *call) {
	c.srv.api.ReleaseOwner(c.caller(), r.lockspace, r.owner, func(released uint32, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.worked(int(released))
		c.reply(released)
	})
}

// releaseMany is ReleaseMany. It is about the caller's own locks, so nobody has
// to be asked.
type releaseMany struct {
	resources []api.Want
	opts      releaseManyOpts
}

// releaseManyOpts are the options of ReleaseMany.
type releaseManyOpts struct {
	sel    api.Selector
	labels []string
}

var releaseManyOptions = append(
	selectorOptions(func(o *releaseManyOpts) *api.Selector { return &o.sel })[:1],
	option[releaseManyOpts]{"labels", "as", func(o *releaseManyOpts, v any) (err error) {
		if len(v.([]string)) > MaxWanted {
			return tooMany("release")
		}
		o.labels, err = v.([]string), checkLabels(v.([]string))
		return err
	}})

func parseReleaseMany(body *reader) (request, error) {
	r := &releaseMany{}
	for end := body.array(8); body.more(end); {
		body.align(8)
		w := api.Want{Lockspace: body.text(), Resource: body.text()}
		if err := checkNames("release", w.Lockspace, w.Resource); err != nil {
			return nil, err
		}
		if len(r.resources) == MaxWanted {
			return nil, tooMany("release")
		}
		r.resources = append(r.resources, w)
	}
	if err := parseOptions("release", releaseManyOptions, body, &r.opts); err != nil {
		return nil, err
	}
	if r.opts.sel.Owner == "" {
		return nil, invalid("release", "the option owner is missing or empty; locks without owner are released one by one with Release")
	}
	return r, nil
}

func (r *releaseMany) work() int { return len(r.resources) }

func (r *releaseMany) weight() int32 { return int32((len(r.resources) + len(r.opts.labels)) / 64) }

func (r *releaseMany) serve(c *call) {
	c.srv.api.ReleaseMany(c.caller(), r.resources, r.opts.sel.Owner, r.opts.labels, func(released uint32, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.reply(released)
	})
}
