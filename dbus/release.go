package dbus

import (
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// release is Release.
type release struct{ frontend.Release }

func parseRelease(body *reader) (request, error) {
	r := &release{frontend.Release{Lockspace: body.text(), Resource: body.text()}}
	return r, parseOptions(r.Op(), frontend.ReleaseOptions, body, &r.Release)
}

func (r *release) serve(c *call) { r.Run(&c.Call, c.done) }

// releaseOwner is ReleaseOwner.
type releaseOwner struct{ frontend.ReleaseOwner }

func parseReleaseOwner(body *reader) (request, error) {
	return &releaseOwner{frontend.ReleaseOwner{Lockspace: body.text(), Owner: body.text()}}, nil
}

func (r *releaseOwner) serve(c *call) { r.Run(&c.Call, answer(c, one[uint32])) }

// releaseMany is ReleaseMany.
type releaseMany struct{ frontend.ReleaseMany }

func parseReleaseMany(body *reader) (request, error) {
	r := new(releaseMany)
	for end := body.array(8); body.more(end); {
		body.align(8)
		r.Resources = append(r.Resources, api.Want{Lockspace: body.text(), Resource: body.text()})
		if len(r.Resources) > frontend.MaxLocks { // the rest is not read; Validate refuses the call
			return nil, r.Validate()
		}
	}
	return r, parseOptions(r.Op(), frontend.ReleaseManyOptions, body, &r.ReleaseMany)
}

func (r *releaseMany) serve(c *call) { r.Run(&c.Call, answer(c, one[uint32])) }
