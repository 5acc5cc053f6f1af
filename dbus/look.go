package dbus

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

type inspect struct{ lockspace, resource string }

func parseInspect(body *reader) (request, error) {
	r := &inspect{body.text(), body.text()}
	return r, checkNames("inspect", r.lockspace, r.resource)
}

func (*inspect) room() int { return longAnswer }

// work: the lock manager's tables are looked through.
func (*inspect) work() int { return 16 }

func (r *inspect) serve(c *call) {
	if err := c.authorize(api.ActInspect, about{op: "inspect", lockspace: r.lockspace, resource: r.resource}); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.Inspect(r.lockspace, r.resource, func(in api.Inspection, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.reply(inspection(&in))
	})
}

// listOptions are the filter of ListLocks.
var listOptions = []option[api.Filter]{
	{"lockspace", "s", func(f *api.Filter, v any) error {
		f.Lockspace = v.(string)
		return checkSpace("", f.Lockspace)
	}},
	{"resource", "s", func(f *api.Filter, v any) error {
		f.Resource = v.(string)
		if err := dlm.CheckResource(f.Resource); err != nil {
			return badName("", "", "", err)
		}
		return nil
	}},
	{"owner", "s", setOwner(func(f *api.Filter) (*string, *bool) { return &f.Owner, &f.HasOwner })},
	{"uid", "u", func(f *api.Filter, v any) error {
		f.UID, f.HasUID = v.(uint32), true
		return nil
	}},
	{"mode", "s", func(f *api.Filter, v any) (err error) {
		f.Mode, err = parseMode("", "", "", v.(string))
		f.HasMode = true
		return err
	}},
	{"state", "s", func(f *api.Filter, v any) error {
		st, ok := api.ParseLockState(v.(string))
		if !ok {
			return errText(`"` + clip(v.(string)) + `" is not one of acquiring, held, converting, releasing`)
		}
		f.State = st
		return nil
	}},
	{"after", "o", setLock(func(f *api.Filter) *api.Ref { return &f.After })},
	{"limit", "u", func(f *api.Filter, v any) error {
		n := v.(uint32)
		if n == 0 || n > MaxPage {
			return errText("a page has 1 to 10000 locks")
		}
		f.Limit = int(n)
		return nil
	}},
}

type listLocks struct{ filter api.Filter }

func parseListLocks(body *reader) (request, error) {
	r := new(listLocks)
	return r, parseOptions("list", listOptions, body, &r.filter)
}

// maxRows is how many locks one page is made of. No more than so many fit into
// longAnswer.
const maxRows = 512

// lookCost is what it costs to look at a lock, in bytes of answers.
const lookCost = 4

func (*listLocks) room() int { return longAnswer }

func (r *listLocks) serve(c *call) {
	if err := c.authorize(api.ActInspect, about{op: "list", lockspace: r.filter.Lockspace, resource: r.filter.Resource}); err != nil {
		c.fail(err)
		return
	}
	f := r.filter
	if f.Limit == 0 || f.Limit > maxRows {
		f.Limit = maxRows
	}
	c.srv.api.List(f, func(page api.Page, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.srv.desk.charge(c.peer.user.share, lookCost*int64(page.Looked))
		c.write(func(e *encoder) { e.lockRows(page.Locks) })
	})
}
