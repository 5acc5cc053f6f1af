package dbus

import (
	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// rootMethods are the members of the root object. Their signatures stand here and in
// data/org.example.DlmLock.xml, which a test compares; a call with another signature is
// refused by its header, so the parse functions read exactly what is announced.
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
		{name: "InspectNode", in: "uss", out: "a{sv}", parse: parseInspectNode},
		{name: "ListLocks", in: "a{sv}", out: "a(ossussstsssuuta{sv})", parse: parseListLocks},
		{name: "ListLost", in: "a{sv}", out: "a(ossussstsa{sv})", parse: parseListLost},
		{name: "ListWaits", in: "a{sv}", out: "a(osssstsa(uussa{sv})a{sv})", parse: parseListWaits},
		{name: "ListNodes", out: "a(ua{sv})", parse: parseListNodes},
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

// acquire is Acquire.
type acquire struct{ frontend.Acquire }

// parseAcquire reads lockspace, resource, mode and options.
func parseAcquire(body *reader) (request, error) {
	r := new(acquire)
	var err error
	if r.Want, err = parseWant(r.Op(), body); err != nil {
		return nil, err
	}
	return r, parseOptions(r.Op(), frontend.AcquireOptions, body, &r.Acquire)
}

func (r *acquire) serve(c *call) {
	r.Run(&c.Call, answer(c, func(g api.Grant) []any { return []any{uint32(g.LockID), g.Token, lockPath(g.Ref)} }))
}

// acquireMany is AcquireMany.
type acquireMany struct{ frontend.AcquireMany }

// parseAcquireMany reads the array of locks, and options for all of them.
func parseAcquireMany(body *reader) (request, error) {
	r := new(acquireMany)
	for end := body.array(8); body.more(end); {
		body.align(8)
		w, err := parseWant(r.Op(), body)
		if err != nil {
			return nil, err
		}
		// A message of 8 MiB has room for many more; what is too much is not even read.
		if r.Wants = append(r.Wants, w); len(r.Wants) > frontend.MaxLocks {
			return nil, r.Validate()
		}
	}
	return r, parseOptions(r.Op(), frontend.AcquireManyOptions, body, &r.AcquireMany)
}

func (r *acquireMany) serve(c *call) {
	r.Run(&c.Call, answer(c, func(grants []api.Grant) []any { return []any{grantRows(grants)} }))
}

// parseWant reads lockspace, resource and mode.
func parseWant(op string, body *reader) (api.Want, error) {
	w := api.Want{Lockspace: body.text(), Resource: body.text()}
	var err error
	w.Mode, err = frontend.ParseMode(body.text())
	return w, named(op, w, err)
}

// grantRow is a lock in the answer of AcquireMany: (ssuto).
type grantRow struct {
	Lockspace, Resource string
	LockID              uint32
	Token               uint64
	Lock                godbus.ObjectPath
}

// grantRows makes the rows of the answer, in the order of the question.
func grantRows(grants []api.Grant) []grantRow {
	rows := make([]grantRow, len(grants))
	for i, g := range grants {
		rows[i] = grantRow{printable(g.Lockspace), printable(g.Resource), uint32(g.LockID), g.Token, lockPath(g.Ref)}
	}
	return rows
}

// convert is Convert.
type convert struct{ frontend.Convert }

// parseConvert reads lockspace, resource, the new mode and options, which say which of the
// caller's locks is meant.
func parseConvert(body *reader) (request, error) {
	r := new(convert)
	var err error
	if r.Want, err = parseWant(r.Op(), body); err != nil {
		return nil, err
	}
	return r, parseOptions(r.Op(), frontend.ConvertOptions, body, &r.Convert)
}

func (r *convert) serve(c *call) {
	r.Run(&c.Call, answer(c, func(g api.Grant) []any { return []any{g.Token} }))
}
