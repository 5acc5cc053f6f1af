package table

import (
	"fmt"
	"log/slog"
	"slices"
	"unicode/utf8"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// The order of events of adopting an orphan, and what a crash between two lines
// leaves. The lock stays held throughout:
//
//	adoptOrphan  Adopt                   an orphan that no record explains, as before
//	             read the value block    the same
//	take         append "held"           record and orphan: joined again, held by the owner
//	taken        Convert in place, which writes the value block
//	published    append the token        the same
//	             reply
//
// The lock keeps its fencing token if the value block has it, because whoever works
// under the lock may have given it to storage. Otherwise it gets a new one.

// orphansOf answers an Orphans.
func (t *Table) orphansOf(c *call) {
	t.listOrphans(c, func(o []dlm.Orphan, e *api.Error) {
		if e != nil {
			t.refuse(c, e)
			return
		}
		t.describe(c, o, func(out []api.Orphan) {
			c.orphans, c.stage = out, stageDone
			t.reply(c)
		})
	})
}

// describeMost bounds how many value blocks one ListOrphans reads, and describeAtOnce
// how many of them at once.
const (
	describeMost   = 1024
	describeAtOnce = 32
)

// describe reads what the value blocks tell of orphans.
func (t *Table) describe(c *call, found []dlm.Orphan, then func([]api.Orphan)) {
	out := make([]api.Orphan, len(found))
	sp := t.spaces[c.space]
	var read []int
	for i, o := range found {
		out[i].Orphan = o
		if o.Mode >= dlm.PW && !sp.raw && len(read) < describeMost {
			read = append(read, i)
		}
	}
	flying := 0
	var more func()
	more = func() {
		for len(read) > 0 && flying < describeAtOnce && !c.answered {
			i := read[0]
			read = read[1:]
			flying++
			t.readValue(sp, out[i].Resource, func(ev dlm.Event) {
				flying--
				out[i].Holder, out[i].HasHolder = t.publishedBy(out[i].Orphan, ev)
				more()
			})
		}
		if flying == 0 && len(read) == 0 && !c.answered {
			c.stage = stageDone
			then(out)
		}
	}
	more()
}

// publishedBy is what the holder of an orphan has published; ok is false where the
// value block tells of another lock.
func (t *Table) publishedBy(o dlm.Orphan, ev dlm.Event) (h api.Holder, ok bool) {
	if h, ok = api.DecodeHolder(ev.Value); ok && ev.HasValue && !ev.ValueInvalid && h.Node == t.node.ID && h.Mode == o.Mode && h.Token < maxToken {
		return h, true
	}
	return api.Holder{}, false
}

// adoptOrphan answers an AdoptOrphan.
func (t *Table) adoptOrphan(c *call, id dlm.LockID, o api.AdoptOptions) {
	if e := t.checkAdopt(c, o); e != nil {
		t.refuse(c, e)
		return
	}
	t.listOrphans(c, func(found []dlm.Orphan, e *api.Error) {
		i := slices.IndexFunc(found, func(o dlm.Orphan) bool { return o.LockID == id })
		switch {
		case e != nil:
		case i < 0:
			e = c.error(api.NotHeld, c.space, "", dlm.None, fmt.Sprintf("no orphan has the lockid %d", id)).WithHint(api.HintListOrphans)
		case o.Resource != "" && o.Resource != found[i].Resource && o.Resource != api.Printable(found[i].Resource), o.HasMode && o.Mode != found[i].Mode:
			e = c.error(api.InvalidArgs, c.space, found[i].Resource, dlm.None, "the orphan with that lockid has another resource or mode").
				WithHint(api.HintListOrphans)
		}
		if e != nil {
			t.refuse(c, e)
			return
		}
		c.resource = found[i].Resource
		t.takeStray(t.spaces[c.space], found[i], func(l *lock) {
			if l == nil {
				t.refuse(c, c.error(api.NotHeld, c.space, c.resource, dlm.None, "the orphan is gone").WithHint(api.HintListOrphans))
				return
			}
			t.readValue(l.sp, l.resource, func(ev dlm.Event) { t.take(c, l, o, ev) })
		})
	})
}

// checkAdopt looks at what does not depend on the orphan.
func (t *Table) checkAdopt(c *call, o api.AdoptOptions) *api.Error {
	bad := func(k api.Kind, text string) *api.Error { return c.error(k, c.space, "", dlm.None, text) }
	switch {
	case t.degraded != "":
		return bad(api.StateWriteFailed, t.degraded)
	case o.HasOwner && o.Owner == "":
		return bad(api.InvalidArgs, "the owner is empty; leave it out for a lock without owner")
	case !utf8.ValidString(o.Owner) || !utf8.ValidString(o.Label):
		return bad(api.InvalidArgs, "owner and label must be UTF-8")
	case len(o.Owner) > t.limits.OwnerBytes:
		return bad(api.LimitExceeded, fmt.Sprintf("the owner has %d bytes, at most %d are allowed", len(o.Owner), t.limits.OwnerBytes))
	case len(o.Label) > t.limits.LabelBytes:
		return bad(api.LimitExceeded, fmt.Sprintf("the label has %d bytes, at most %d are allowed", len(o.Label), t.limits.LabelBytes))
	}
	return nil
}

// takeStray adopts orphans of the name and mode of o until o itself is there; the
// others stay strays. then gets nil if it is gone.
func (t *Table) takeStray(sp *space, o dlm.Orphan, then func(*lock)) {
	if l := sp.strays[o.LockID]; l != nil || !sp.open {
		then(l)
		return
	}
	ck := dlm.Cookie(t.ref())
	sp.purges[ck] = func(ev dlm.Event) {
		if !ev.Status.OK() {
			then(nil)
			return
		}
		l := &lock{ref: t.ref(), cookie: ck, sp: sp, resource: o.Resource, lockid: ev.LockID, mode: o.Mode,
			wanted: dlm.None, state: api.Held, stray: true, probe: true}
		t.add(l)
		sp.strays[l.lockid] = l
		t.takeStray(sp, o, then) // perhaps another one than o
	}
	t.do(AdoptAction{Lockspace: sp.id, Cookie: ck, Resource: o.Resource, Mode: o.Mode})
}

// take makes a stray the lock of an owner, once it is known what its value block
// tells, and writes that down.
func (t *Table) take(c *call, l *lock, o api.AdoptOptions, ev dlm.Event) {
	uid := c.caller.UID
	if o.HasUID {
		uid = o.UID
	}
	sp := l.sp
	var u usage
	if p := t.perUID[uid]; p != nil {
		u = *p
	}
	var e *api.Error
	switch {
	case c.answered:
		return // the orphan stays what it was
	case sp.strays[l.lockid] != l || l.flying:
		e = c.error(api.NotHeld, sp.name, l.resource, dlm.None, "the orphan is gone").WithHint(api.HintListOrphans)
	case o.HasOwner && t.findOwned(sp, l.resource, uid, o.Owner) != nil:
		e = c.error(api.AlreadyHeld, sp.name, l.resource, dlm.None, fmt.Sprintf("owner %q already has a lock on the resource; name another owner", o.Owner))
	case u.locks >= t.limits.LocksPerUID:
		e = c.error(api.LimitExceeded, sp.name, l.resource, dlm.None, fmt.Sprintf("uid %d has %d locks and may have %d (limits.locks-per-uid)", uid, u.locks, t.limits.LocksPerUID))
	}
	if e != nil {
		t.refuse(c, e)
		return
	}
	t.remove(l)
	n := &lock{ref: t.ref(), cookie: l.cookie, sp: sp, resource: l.resource, lockid: l.lockid, mode: l.mode, wanted: l.mode, state: api.Converting, busy: c,
		owner: o.Owner, hasOwner: o.HasOwner, label: o.Label, lifetime: state.Persistent, uid: uid, since: t.now.UnixMicro(), phase: state.Held, asked: c.seq}
	if uid == c.caller.UID {
		n.pid, n.session = c.caller.PID, c.caller.Session
	}
	if h, ok := t.publishedBy(dlm.Orphan{Mode: l.mode}, ev); ok && !sp.raw {
		n.token = h.Token
		sp.highToken = max(sp.highToken, h.Token)
	} else {
		n.token = t.token(sp, l.mode, ev)
	}
	t.add(n)
	c.want, c.locks = []api.Want{{Lockspace: sp.name, Resource: n.resource, Mode: n.mode}}, []*lock{n}
	c.from, c.written, c.token, c.stage = n.mode, n.mode, n.token, stageRecording
	r := n.record(state.Held)
	t.append(false, []state.Change{r}, func(err error) { t.taken(c, n, err) })
}

// taken goes on once the record is written, or could not be.
func (t *Table) taken(c *call, l *lock, err error) {
	switch {
	case err != nil:
		l.phase = 0
		t.append(true, c.marks(c.locks, state.Gone), nil) // without effect, and ends the state
		t.remove(l)
		if l.mode != dlm.None {
			s := &lock{ref: t.ref(), cookie: l.cookie, sp: l.sp, resource: l.resource, lockid: l.lockid, mode: l.mode,
				wanted: dlm.None, state: api.Held, stray: true, probe: true}
			t.add(s)
			l.sp.strays[s.lockid] = s
		}
		e := c.error(api.StateWriteFailed, l.sp.name, l.resource, dlm.None, "the orphan was not adopted, because the state file can't be written: "+err.Error())
		e.Err = err
		t.refuse(c, e)
	case l.mode == dlm.None:
		t.endConvert(c, l)
	default:
		l.sp.orphans = max(l.sp.orphans-1, 0)
		t.logLock(slog.LevelInfo, "orphan adopted", l, slog.String("session", string(c.caller.Session)))
		if l.mode >= dlm.PW && !l.sp.raw {
			t.publish(c, l)
			return
		}
		t.converted(c, l)
	}
}
