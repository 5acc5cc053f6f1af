package dbus

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd"
)

type inspect struct{ lockspace, resource string }

func parseInspect(body *reader) (request, error) {
	r := &inspect{body.text(), body.text()}
	return r, checkNames("inspect", r.lockspace, r.resource)
}

func (r *inspect) serve(c *call) {
	if err := c.authorize(lockd.ActInspect, about{op: "inspect", lockspace: r.lockspace, resource: r.resource}); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.Inspect(r.lockspace, r.resource, func(in lockd.Inspection, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.reply(inspection(&in))
	})
}

// listOptions are the filter of ListLocks.
var listOptions = []option[lockd.Filter]{
	{"lockspace", "s", func(f *lockd.Filter, v any) error {
		f.Lockspace = v.(string)
		return checkSpace("", f.Lockspace)
	}},
	{"resource", "s", func(f *lockd.Filter, v any) error {
		f.Resource = v.(string)
		if err := dlm.CheckResource(f.Resource); err != nil {
			return badName("", "", "", err)
		}
		return nil
	}},
	{"owner", "s", setOwner(func(f *lockd.Filter) (*string, *bool) { return &f.Owner, &f.HasOwner })},
	{"uid", "u", func(f *lockd.Filter, v any) error {
		f.UID, f.HasUID = v.(uint32), true
		return nil
	}},
	{"mode", "s", func(f *lockd.Filter, v any) (err error) {
		f.Mode, err = parseMode("", "", "", v.(string))
		f.HasMode = true
		return err
	}},
	{"state", "s", func(f *lockd.Filter, v any) error {
		st, ok := lockd.ParseLockState(v.(string))
		if !ok {
			return errText(`"` + clip(v.(string)) + `" is not one of acquiring, held, converting, releasing`)
		}
		f.State = st
		return nil
	}},
	{"after", "o", setLock(func(f *lockd.Filter) *lockd.Ref { return &f.After })},
	{"limit", "u", func(f *lockd.Filter, v any) error {
		n := v.(uint32)
		if n == 0 || n > MaxPage {
			return errText("a page has 1 to 10000 locks")
		}
		f.Limit = int(n)
		return nil
	}},
}

type listLocks struct{ filter lockd.Filter }

func parseListLocks(body *reader) (request, error) {
	r := new(listLocks)
	return r, parseOptions("list", listOptions, body, &r.filter)
}

func (r *listLocks) serve(c *call) {
	if err := c.authorize(lockd.ActInspect, about{op: "list", lockspace: r.filter.Lockspace, resource: r.filter.Resource}); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.List(r.filter, func(page []lockd.LockInfo, _ lockd.Ref, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.reply(lockRows(page))
	})
}
