package local_test

import (
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
)

// model is a lock manager that is too simple to be wrong: plain lists, which are searched from the
// start for every question. It knows one lockspace.
type model struct {
	resources []*modelResource // those with a lock, by name
	stopped   bool
	held      []modelHeld
}

type modelResource struct {
	name       string
	granted    []*modelLock
	converting []*modelLock
	waiting    []*modelLock
	value      *dlm.Value
	invalid    bool
	master     uint32
}

type modelLock struct {
	owner   *modelProcess // nil: an orphan
	node    uint32
	cookie  dlm.Cookie
	id      dlm.LockID
	flags   dlm.Flags
	mode    dlm.Mode
	wanted  dlm.Mode
	highest dlm.Mode // of the modes told since the last grant
	told    dlm.Mode // the mode of the last notification, NL if a grant came after it
}

type modelProcess struct {
	node   uint32
	ended  bool
	events []dlm.Event
}

func (p *modelProcess) tell(ev dlm.Event) {
	if p != nil && !p.ended {
		p.events = append(p.events, ev)
	}
}

func (r *modelResource) holders() []*modelLock { return slices.Concat(r.granted, r.converting) }
func (r *modelResource) all() []*modelLock {
	return slices.Concat(r.granted, r.converting, r.waiting)
}

func (m *model) find(name string) *modelResource {
	for _, r := range m.resources {
		if r.name == name {
			return r
		}
	}
	return nil
}

func (m *model) lockOf(p *modelProcess, c dlm.Cookie) (*modelResource, *modelLock) {
	for _, r := range m.resources {
		for _, l := range r.all() {
			if l.owner == p && l.cookie == c {
				return r, l
			}
		}
	}
	return nil, nil
}

// locks returns the locks that match, by lockid.
func (m *model) locks(match func(*modelLock) bool) (found []*modelLock) {
	for _, r := range m.resources {
		for _, l := range r.all() {
			if match(l) {
				found = append(found, l)
			}
		}
	}
	slices.SortFunc(found, func(a, b *modelLock) int { return int(a.id) - int(b.id) })
	return found
}

func (m *model) resourceOf(l *modelLock) *modelResource {
	for _, r := range m.resources {
		if slices.Contains(r.all(), l) {
			return r
		}
	}
	return nil
}

func (m *model) lowestFree(node uint32) dlm.LockID {
	for id := dlm.LockID(1); ; id++ {
		if len(m.locks(func(l *modelLock) bool { return l.node == node && l.id == id })) == 0 {
			return id
		}
	}
}

// remove removes a lock from all lists.
func (r *modelResource) remove(l *modelLock) {
	for _, q := range []*[]*modelLock{&r.granted, &r.converting, &r.waiting} {
		*q = slices.DeleteFunc(*q, func(x *modelLock) bool { return x == l })
	}
}

// fits reports whether no other lock has a mode that conflicts with the one l wants.
func (r *modelResource) fits(l *modelLock) bool {
	for _, h := range r.holders() {
		if h != l && !dlm.Compatible(h.mode, l.wanted) {
			return false
		}
	}
	return true
}

// grant grants l its wanted mode and informs its owner.
func (r *modelResource) grant(l *modelLock, v *dlm.Value) {
	ev := dlm.Event{Kind: dlm.Completed, Op: dlm.OpConvert, Cookie: l.cookie, LockID: l.id, Mode: l.wanted}
	if l.mode == dlm.None {
		ev.Op = dlm.OpLock
	}
	if l.flags&dlm.ValueBlock != 0 {
		switch {
		case l.mode >= dlm.PW && l.wanted <= l.mode:
			r.write(v)
		case l.wanted >= l.mode:
			ev.HasValue = true
			if r.value != nil {
				ev.Value, ev.ValueInvalid = *r.value, r.invalid
			}
		}
	}
	if l.mode != l.wanted {
		r.remove(l)
		r.granted = append(r.granted, l)
		l.mode = l.wanted
	}
	l.wanted, l.highest, l.told = dlm.None, dlm.NL, dlm.NL
	l.owner.tell(ev)
}

func (r *modelResource) write(v *dlm.Value) {
	r.value, r.invalid = new(dlm.Value), false
	if v != nil {
		*r.value = *v
	}
}

func (r *modelResource) notify(l *modelLock, m dlm.Mode) {
	if l.owner == nil || l.told == m || l.told > dlm.PR && l.told > m {
		return
	}
	l.told = m
	l.owner.tell(dlm.Event{Kind: dlm.Blocking, Cookie: l.cookie, Mode: m})
}

// announce notifies holders that l wants a mode that they block.
func (r *modelResource) announce(holders []*modelLock, l *modelLock) {
	for _, h := range holders {
		limit := l.wanted
		if h.mode == dlm.PR && l.wanted == dlm.CW || h.mode == dlm.CW && l.wanted == dlm.PR {
			limit = dlm.EX
		}
		if h != l && !dlm.Compatible(h.mode, l.wanted) && h.highest < limit {
			r.notify(h, l.wanted)
			h.highest = l.wanted
		}
	}
}

// settle grants what can be granted and announces what is still waiting.
func (m *model) settle(r *modelResource) {
	if len(r.all()) == 0 {
		m.resources = slices.DeleteFunc(m.resources, func(x *modelResource) bool { return x == r })
		return
	}
	if m.stopped {
		return
	}
	for {
		next := slices.Concat(r.converting, r.waiting)
		if len(next) == 0 || !r.fits(next[0]) {
			break
		}
		r.grant(next[0], nil)
	}
	var wanted []dlm.Mode
	for _, l := range slices.Concat(r.converting, r.waiting) {
		wanted = append(wanted, l.wanted)
	}
	if len(wanted) == 0 {
		return
	}
	high, cw := slices.Max(wanted), slices.Contains(wanted, dlm.CW)
	for _, g := range r.granted {
		special := g.mode == dlm.PR && cw
		switch {
		case special && g.highest < dlm.EX, !special && g.highest < high && !dlm.Compatible(g.mode, high):
			if special && high == dlm.PR {
				r.notify(g, dlm.CW)
			} else {
				r.notify(g, high)
			}
			g.highest = high
		}
	}
}
