package dbus

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// listLockspaces is ListLockspaces.
type listLockspaces struct{ frontend.ListLockspaces }

func parseListLockspaces(*reader) (request, error) { return &listLockspaces{}, nil }

func (r *listLockspaces) serve(c *call) {
	r.Run(&c.Call, answer(c, func(spaces []api.LockspaceInfo) []any { return []any{spaceRows(spaces)} }))
}

// join is JoinLockspace.
type join struct{ frontend.Join }

func parseJoin(body *reader) (request, error) {
	r := &join{frontend.Join{Lockspace: body.text()}}
	return r, parseOptions(r.Op(), frontend.JoinOptions, body, &r.Join)
}

func (r *join) serve(c *call) { r.Run(&c.Call, c.done) }

// leave is LeaveLockspace.
type leave struct{ frontend.Leave }

func parseLeave(body *reader) (request, error) {
	r := &leave{frontend.Leave{Lockspace: body.text()}}
	return r, parseOptions(r.Op(), frontend.LeaveOptions, body, &r.Leave)
}

func (r *leave) serve(c *call) { r.Run(&c.Call, c.done) }

// listOrphans is ListOrphans.
type listOrphans struct{ frontend.ListOrphans }

func parseListOrphans(body *reader) (request, error) {
	return &listOrphans{frontend.ListOrphans{Lockspace: body.text()}}, nil
}

func (r *listOrphans) serve(c *call) {
	r.Run(&c.Call, answer(c, func(orphans []api.Orphan) []any { return []any{orphanRows(orphans)} }))
}

// adoptOrphan is AdoptOrphan.
type adoptOrphan struct{ frontend.AdoptOrphan }

func parseAdoptOrphan(body *reader) (request, error) {
	r := &adoptOrphan{frontend.AdoptOrphan{Lockspace: body.text(), LockID: dlm.LockID(body.uint32())}}
	return r, parseOptions(r.Op(), frontend.AdoptOptions, body, &r.AdoptOrphan)
}

func (r *adoptOrphan) serve(c *call) {
	r.Run(&c.Call, answer(c, func(g api.Grant) []any { return []any{g.Token, lockPath(g.Ref)} }))
}

// purge is Purge.
type purge struct{ frontend.Purge }

func parsePurge(body *reader) (request, error) {
	r := &purge{frontend.Purge{Lockspace: body.text()}}
	// If there are too many, the rest of the array is not read: Validate refuses the call.
	for end := body.array(4); body.more(end); {
		if r.Expect = append(r.Expect, dlm.LockID(body.uint32())); len(r.Expect) > frontend.MaxPurge {
			return nil, r.Validate()
		}
	}
	return r, parseOptions(r.Op(), frontend.PurgeOptions, body, &r.Purge)
}

func (r *purge) serve(c *call) { r.Run(&c.Call, answer(c, one[uint32])) }
