package local_test

import (
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
)

// modelHeld is an operation that waits for the lockspace to resume.
type modelHeld struct {
	p      *modelProcess
	op     dlm.Op // OpNone: a Cancel
	cookie dlm.Cookie
	do     func()
}

// do runs an operation now, or when the lockspace resumes.
func (m *model) do(p *modelProcess, op dlm.Op, c dlm.Cookie, do func()) {
	if !m.stopped {
		do()
		return
	}
	if op == dlm.OpLock || op == dlm.OpConvert || op == dlm.OpUnlock {
		for _, h := range m.held {
			if h.p != p || h.cookie != c || h.op == dlm.OpNone {
				continue
			}
			if _, l := m.lockOf(p, c); l != nil && op != dlm.OpLock {
				p.tell(kept(op, l, dlm.StatusBusy))
			} else {
				p.tell(failed(op, c, dlm.StatusBusy))
			}
			return
		}
	}
	m.held = append(m.held, modelHeld{p, op, c, do})
}

// resume grants what has become possible, then carries out what was held back.
func (m *model) resume() {
	m.stopped = false
	for _, r := range slices.Clone(m.resources) {
		m.settle(r)
	}
	for _, h := range m.held {
		if !h.p.ended {
			h.do()
		}
	}
	m.held = nil
}

func failed(op dlm.Op, c dlm.Cookie, s dlm.Status) dlm.Event {
	return dlm.Event{Kind: dlm.Completed, Op: op, Cookie: c, Status: s, Mode: dlm.None}
}

func kept(op dlm.Op, l *modelLock, s dlm.Status) dlm.Event {
	return dlm.Event{Kind: dlm.Completed, Op: op, Cookie: l.cookie, Status: s, LockID: l.id, Mode: l.mode}
}

func (m *model) lock(p *modelProcess, c dlm.Cookie, name string, mode dlm.Mode, f dlm.Flags) {
	_, used := m.lockOf(p, c)
	switch {
	case used != nil:
		p.tell(failed(dlm.OpLock, c, dlm.StatusBusy))
		return
	case f&dlm.QueueConvert != 0, f&dlm.Expedite != 0 && (mode != dlm.NL || f&dlm.NoQueue != 0):
		p.tell(failed(dlm.OpLock, c, dlm.StatusInvalid))
		return
	}
	r := m.find(name)
	if r == nil {
		r = &modelResource{name: name, master: p.node}
		m.resources = append(m.resources, r)
		slices.SortFunc(m.resources, func(a, b *modelResource) int {
			return slices.Compare([]byte(a.name),
				[]byte(b.name))
		})
	}
	l := &modelLock{owner: p, node: p.node, cookie: c, id: m.lowestFree(p.node), flags: f, mode: dlm.None, wanted: mode}
	nobodyWaits := len(r.converting)+len(r.waiting) == 0
	switch {
	case f&dlm.Expedite != 0, nobodyWaits && r.fits(l):
		r.grant(l, nil)
	case f&dlm.NoQueue != 0:
		p.tell(failed(dlm.OpLock, c, dlm.StatusAgain))
		if f&dlm.NoQueueBlocking != 0 {
			r.announce(r.holders(), l)
		}
	default:
		r.waiting = append(r.waiting, l)
		r.announce(r.granted, l)
	}
}

func (m *model) convert(p *modelProcess, c dlm.Cookie, mode dlm.Mode, f dlm.Flags, v *dlm.Value) {
	r, l := m.lockOf(p, c)
	if l == nil {
		p.tell(failed(dlm.OpConvert, c, dlm.StatusNotFound))
		return
	}
	up := mode > l.mode || l.mode == dlm.PR && mode == dlm.CW
	switch {
	case f&dlm.Expedite != 0, f&dlm.QueueConvert != 0 && !up:
		p.tell(kept(dlm.OpConvert, l, dlm.StatusInvalid))
		return
	case !slices.Contains(r.granted, l):
		p.tell(kept(dlm.OpConvert, l, dlm.StatusBusy))
		return
	}
	l.flags, l.wanted = f, mode
	blocks := slices.ContainsFunc(r.converting, func(x *modelLock) bool { return !dlm.Compatible(l.mode, x.wanted) })
	switch {
	case r.fits(l) && (f&dlm.QueueConvert == 0 || len(r.converting) == 0):
		r.grant(l, v)
		m.settle(r)
	case f&dlm.NoQueue != 0:
		p.tell(kept(dlm.OpConvert, l, dlm.StatusAgain))
		if f&dlm.NoQueueBlocking != 0 {
			r.announce(r.holders(), l)
		}
		l.wanted = dlm.None
	case blocks:
		l.wanted = dlm.None
		p.tell(kept(dlm.OpConvert, l, dlm.StatusDeadlock))
	default:
		r.remove(l)
		r.converting = append(r.converting, l)
		r.announce(r.granted, l)
	}
}

func (m *model) unlock(p *modelProcess, c dlm.Cookie, v *dlm.Value) {
	r, l := m.lockOf(p, c)
	switch {
	case l == nil:
		p.tell(failed(dlm.OpUnlock, c, dlm.StatusNotFound))
		return
	case slices.Contains(r.converting, l):
		p.tell(kept(dlm.OpUnlock, l, dlm.StatusBusy))
		return
	case slices.Contains(r.waiting, l):
		p.tell(failed(dlm.OpLock, c, dlm.StatusCanceled))
	case v != nil && l.mode >= dlm.PW:
		r.write(v)
	}
	r.remove(l)
	ev := failed(dlm.OpUnlock, c, dlm.StatusUnlocked)
	ev.LockID = l.id
	p.tell(ev)
	m.settle(r)
}

func (m *model) cancel(p *modelProcess, c dlm.Cookie) {
	r, l := m.lockOf(p, c)
	switch {
	case l == nil || slices.Contains(r.granted, l):
		return
	case slices.Contains(r.converting, l):
		r.revert(l)
		p.tell(kept(dlm.OpConvert, l, dlm.StatusCanceled))
	default:
		r.remove(l)
		p.tell(failed(dlm.OpLock, c, dlm.StatusCanceled))
	}
	m.settle(r)
}

func (r *modelResource) revert(l *modelLock) {
	r.remove(l)
	r.granted = append(r.granted, l)
	l.wanted = dlm.None
}

func (m *model) adopt(p *modelProcess, c dlm.Cookie, name string, mode dlm.Mode, f dlm.Flags) {
	if p.ended {
		return
	}
	if _, used := m.lockOf(p, c); used != nil {
		p.tell(failed(dlm.OpAdopt, c, dlm.StatusBusy))
		return
	}
	if f&dlm.QueueConvert != 0 || f&dlm.Expedite != 0 && (mode != dlm.NL || f&dlm.NoQueue != 0) {
		p.tell(failed(dlm.OpAdopt, c, dlm.StatusInvalid))
		return
	}
	status := dlm.StatusNotFound
	if r := m.find(name); r != nil {
		for _, l := range r.granted {
			if l.owner != nil || l.node != p.node {
				continue
			}
			if l.mode != mode {
				status = dlm.StatusAgain
				continue
			}
			l.owner, l.cookie, l.flags = p, c, f
			r.revert(l) // to the end of the queue
			p.tell(kept(dlm.OpAdopt, l, dlm.StatusOK))
			return
		}
	}
	p.tell(failed(dlm.OpAdopt, c, status))
}

func (m *model) purge(p *modelProcess) {
	orphans := m.orphans(p.node)
	for _, l := range orphans {
		r := m.resourceOf(l)
		r.invalid = r.invalid || l.mode >= dlm.PW
		r.remove(l)
		m.settle(r)
	}
	p.tell(dlm.Event{Kind: dlm.Completed, Op: dlm.OpPurge, Mode: dlm.None, Count: len(orphans)})
}

func (m *model) orphans(node uint32) []*modelLock {
	return m.locks(func(l *modelLock) bool { return l.node == node && l.owner == nil })
}

// kill ends a process: first all its locks, then others are granted.
func (m *model) kill(p *modelProcess) {
	p.ended = true
	var touched []*modelResource
	for _, l := range m.locks(func(l *modelLock) bool { return l.owner == p }) {
		r := m.resourceOf(l)
		switch {
		case slices.Contains(r.granted, l) && l.flags&dlm.Persistent != 0:
			l.owner, l.cookie = nil, 0
			continue
		case slices.Contains(r.converting, l) && l.flags&dlm.Persistent != 0:
			r.revert(l)
			l.owner, l.cookie = nil, 0
		default:
			r.invalid = r.invalid || l.mode >= dlm.PW
			r.remove(l)
		}
		touched = append(touched, r)
	}
	for _, r := range touched {
		m.settle(r)
	}
}

// leave ends everything that a node has: it crashed or left the lockspace.
func (m *model) leave(node uint32, processes []*modelProcess) {
	for _, p := range processes {
		if p.node != node || p.ended {
			continue
		}
		for _, l := range m.locks(func(l *modelLock) bool { return l.owner == p && l.wanted != dlm.None }) {
			op := dlm.OpConvert
			if l.mode == dlm.None {
				op = dlm.OpLock
			}
			p.tell(failed(op, l.cookie, dlm.StatusGone))
		}
		for _, h := range m.held {
			if h.p == p && h.op != dlm.OpNone {
				p.tell(failed(h.op, h.cookie, dlm.StatusGone))
			}
		}
		p.tell(dlm.Event{Kind: dlm.Closed, Mode: dlm.None})
		p.ended = true
	}
	for _, r := range slices.Clone(m.resources) {
		touched := r.master == node
		for _, l := range r.all() {
			if l.node == node {
				touched = true
				r.invalid = r.invalid || l.mode >= dlm.PW
				r.remove(l)
			}
		}
		if r.master == node {
			r.recover()
		}
		if touched {
			m.settle(r)
		}
	}
}

// recover finds a new master, which knows the value only from copies of locks.
func (r *modelResource) recover() {
	copies, strong := 0, 0
	for _, l := range r.holders() {
		if l.flags&dlm.ValueBlock != 0 {
			copies++
			if l.mode > dlm.CR {
				strong++
			}
		}
	}
	if copies == 0 {
		r.value = nil
	}
	r.invalid = copies > 0 && strong == 0
	if all := r.all(); len(all) > 0 {
		r.master = all[0].node
	}
}
