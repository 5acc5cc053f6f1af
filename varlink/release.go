package varlink

import (
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// release is Release.
type release struct {
	releaseIn
	m frontend.Release
}

func (r *release) method(*wire.Call) (frontend.Method, error) {
	r.m.Lockspace, r.m.Resource = r.Lockspace, r.Resource
	s := setter[frontend.Release]{table: frontend.ReleaseOptions, into: &r.m}
	s.selector(r.Select)
	given(&s, api.ArgReason, r.Reason)
	return s.done("release")
}

func (r *release) run(c *call) { r.m.Run(&c.Call, c.plain) }

// releaseOwner is ReleaseOwner.
type releaseOwner struct {
	releaseOwnerIn
	silent
	m frontend.ReleaseOwner
}

func (r *releaseOwner) method(*wire.Call) (frontend.Method, error) {
	r.m.Owner = r.Owner
	if r.Lockspace == nil {
		return &r.m, nil
	}
	if r.m.Lockspace = *r.Lockspace; r.m.Lockspace == "" {
		// "" would mean all, which is null here.
		return nil, about((&frontend.Join{}).Validate(), r.m.Op(), name{})
	}
	return &r.m, nil
}

func (r *releaseOwner) run(c *call) { r.m.Run(&c.Call, c.released) }

// released ends a call that has released locks.
func (c *call) released(n uint32, err error) {
	if err != nil {
		c.Fail(err)
		return
	}
	c.reply(releasedOut{n})
}

// releaseMany is ReleaseMany.
type releaseMany struct {
	releaseManyIn
	silent
	m frontend.ReleaseMany
}

func (r *releaseMany) method(*wire.Call) (frontend.Method, error) {
	s := setter[frontend.ReleaseMany]{table: frontend.ReleaseManyOptions, into: &r.m}
	for _, n := range r.Resources {
		r.m.Resources = append(r.m.Resources, api.Want{Lockspace: n.Lockspace, Resource: n.Resource})
	}
	s.set(api.ArgOwner, r.Owner) // required here: without it anybody's locks would be meant
	if r.Labels != nil {
		s.set(api.ArgLabels, r.Labels)
	}
	given(&s, api.ArgReason, r.Reason)
	return s.done("release")
}

func (r *releaseMany) run(c *call) { r.m.Run(&c.Call, c.released) }
