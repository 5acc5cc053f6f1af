package dbus

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

type listLockspaces struct{}

func parseListLockspaces(*reader) (request, error) { return listLockspaces{}, nil }

func (listLockspaces) serve(c *call) {
	if err := c.authorize(api.ActInspect, about{op: "list-lockspaces"}); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.Lockspaces(func(spaces []api.LockspaceInfo, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.reply(spaceRows(spaces))
	})
}

// joinOptions: none so far.
var joinOptions []option[join]

type join struct{ lockspace string }

func parseJoin(body *reader) (request, error) {
	r := &join{body.text()}
	if err := checkSpace("join", r.lockspace); err != nil {
		return nil, err
	}
	return r, parseOptions("join", joinOptions, body, r)
}

func (r *join) serve(c *call) {
	if err := c.authorize(api.ActManageLockspaces, about{op: "join", lockspace: r.lockspace}); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.Join(c.caller(), r.lockspace, c.plain)
}

var leaveOptions = []option[leave]{
	{"force", "b", func(r *leave, v any) error {
		r.force = v.(bool)
		return nil
	}},
}

type leave struct {
	lockspace string
	force     bool
}

func parseLeave(body *reader) (request, error) {
	r := &leave{lockspace: body.text()}
	if err := checkSpace("leave", r.lockspace); err != nil {
		return nil, err
	}
	return r, parseOptions("leave", leaveOptions, body, r)
}

func (r *leave) serve(c *call) {
	if err := c.authorize(api.ActManageLockspaces, about{op: "leave", lockspace: r.lockspace}); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.Leave(c.caller(), r.lockspace, r.force, c.plain)
}

// plain ends a call that has no out arguments.
func (c *call) plain(err error) {
	defer c.contain()
	if err != nil {
		c.fail(err)
		return
	}
	c.reply()
}

type listOrphans struct{ lockspace string }

func parseListOrphans(body *reader) (request, error) {
	r := &listOrphans{body.text()}
	return r, checkSpace("list-orphans", r.lockspace)
}

func (r *listOrphans) serve(c *call) {
	if err := c.authorize(api.ActInspect, about{op: "list-orphans", lockspace: r.lockspace}); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.Orphans(r.lockspace, func(orphans []api.Orphan, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.reply(orphanRows(orphans))
	})
}

var adoptOptions = []option[api.AdoptOptions]{
	{"owner", "s", setOwner(func(o *api.AdoptOptions) (*string, *bool) { return &o.Owner, &o.HasOwner })},
	{"label", "s", setText(func(o *api.AdoptOptions) *string { return &o.Label })},
	{"uid", "u", func(o *api.AdoptOptions, v any) error { o.UID, o.HasUID = v.(uint32), true; return nil }},
	{"resource", "s", setText(func(o *api.AdoptOptions) *string { return &o.Resource })},
	{"mode", "s", func(o *api.AdoptOptions, v any) (err error) {
		o.HasMode = true
		o.Mode, err = dlm.ParseMode(v.(string))
		return err
	}},
}

type adoptOrphan struct {
	lockspace string
	id        dlm.LockID
	opts      api.AdoptOptions
}

func parseAdoptOrphan(body *reader) (request, error) {
	r := &adoptOrphan{lockspace: body.text()}
	if err := checkSpace("adopt", r.lockspace); err != nil {
		return nil, err
	}
	r.id = dlm.LockID(body.uint32())
	return r, parseOptions("adopt", adoptOptions, body, &r.opts)
}

func (r *adoptOrphan) serve(c *call) {
	if err := c.authorize(api.ActPurge, about{op: "adopt", lockspace: r.lockspace, resource: r.opts.Resource, owner: r.opts.Owner}); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.AdoptOrphan(c.caller(), r.lockspace, r.id, r.opts, func(g api.Grant, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.reply(g.Token, lockPath(g.Ref))
	})
}

var purgeOptions = []option[purge]{
	{"some", "b", func(r *purge, v any) error {
		r.some = v.(bool)
		return nil
	}},
}

type purge struct {
	lockspace string
	expect    []dlm.LockID
	some      bool
}

func parsePurge(body *reader) (request, error) {
	r := &purge{lockspace: body.text()}
	if err := checkSpace("purge", r.lockspace); err != nil {
		return nil, err
	}
	for end := body.array(4); body.more(end); {
		if len(r.expect) == MaxPurge {
			return nil, invalid("purge", "more than %d lockids", MaxPurge)
		}
		r.expect = append(r.expect, dlm.LockID(body.uint32()))
	}
	return r, parseOptions("purge", purgeOptions, body, r)
}

func (r *purge) weight() int32 { return int32(len(r.expect) / 1024) }

func (r *purge) serve(c *call) {
	if err := c.authorize(api.ActPurge, about{op: "purge", lockspace: r.lockspace}); err != nil {
		c.fail(err)
		return
	}
	c.srv.api.Purge(c.caller(), r.lockspace, r.expect, r.some, func(purged uint32, err error) {
		defer c.contain()
		if err != nil {
			c.fail(err)
			return
		}
		c.reply(purged)
	})
}
