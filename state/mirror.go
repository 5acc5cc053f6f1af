package state

import (
	"slices"
	"strings"

	"github.com/dlmlock/dlmlockd/dlm"
)

// mirror is the contents of the file in memory: each lock and lockspace as the records so far make
// it, and how much padding the records that are still to come will take (need.go). If somebody
// destroys the file while the service runs, it is written again from here.
//
// add applies changes one by one; commit or rollback then ends the batch. The mirror is not safe
// for concurrent use: File.mu guards it.
type mirror struct {
	need   int64  // bytes of padding that the remaining records take
	nextID uint64 // larger than every ID that was added, as Contents.NextID
	// The locks by ID. One that is gone is not kept.
	locks  map[uint64]lockEntry
	spaces map[string]spaceEntry
	pack   packer

	// What the changes since the last commit have replaced, the newest last.
	needBefore   int64
	nextIDBefore uint64
	// What rollback puts back; commit forgets it.
	oldLocks  []oldLock
	oldSpaces []oldSpace
}

// lockEntry is one lock.
type lockEntry struct {
	record packed // never changed, because rollback may need it again
	lost   uint32 // size of the record of its loss in bytes; 0 if the lock names no helper
	phase  Phase
}

// spaceEntry is one lockspace.
type spaceEntry struct {
	size   int64 // of one record of it, in bytes, with the longest lockid: it must not grow later
	phase  SpacePhase
	anchor dlm.LockID // 0: not known yet
}

type (
	oldLock struct {
		id        uint64
		had       bool // false: rollback removes it
		lockEntry      // as it was
	}
	oldSpace struct {
		name string
		had  bool // as for a lock
		spaceEntry
	}
)

// newMirror mirrors the contents of a file. records are the locks packed, if somebody has done that
// already.
func newMirror(c *Contents, records []packed) *mirror {
	m := &mirror{nextID: c.NextID, locks: make(map[uint64]lockEntry, len(c.Locks)), spaces: map[string]spaceEntry{}}
	for _, s := range c.Spaces {
		m.setSpace(s)
	}
	var buf []byte
	for i := range c.Locks {
		l := &c.Locks[i]
		size := 0
		if l.OnLost != "" {
			buf = appendLock(buf[:0], l)
			size = len(buf) + 1
		}
		var r packed
		if records != nil {
			r = records[i]
		}
		if r.names == nil {
			r = m.pack.pack(l)
		}
		e := newLockEntry(l, r, size)
		m.locks[l.ID] = e
		m.need += e.need(l.ID)
		m.nextID = max(m.nextID, l.ID+1)
	}
	m.oldSpaces = nil // nothing to go back to
	m.commit()
	return m
}

// contents returns what the mirror holds, as loading the file would.
func (m *mirror) contents() Contents {
	c := Contents{NextID: m.nextID}
	if len(m.locks) > 0 {
		c.Locks = make([]Lock, 0, len(m.locks))
	}
	for id, e := range m.locks {
		l := e.record.unpack()
		l.ID, l.Phase = id, e.phase
		c.Locks = append(c.Locks, l)
	}
	slices.SortFunc(c.Locks, func(a, b Lock) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	for name, e := range m.spaces {
		c.Spaces = append(c.Spaces, Lockspace{Name: name, Phase: e.phase, AnchorID: e.anchor})
	}
	slices.SortFunc(c.Spaces, func(a, b Lockspace) int { return strings.Compare(a.Name, b.Name) })
	return c
}

// add applies one change, whose record takes size bytes. fresh is true if it adds a lock or a
// lockspace.
func (m *mirror) add(c Change, size int) (fresh bool) {
	switch c := c.(type) {
	case Lock:
		m.addLock(&c, size)
		return c.Phase != Lost
	case Mark:
		m.mark(&c)
	case Lockspace:
		if c.Phase == Left {
			m.left(c.Name)
			return false
		}
		_, known := m.spaces[c.Name]
		m.setSpace(c)
		return !known
	}
	return false
}

// addLock takes a record of a lock, which is size bytes long.
func (m *mirror) addLock(l *Lock, size int) {
	m.nextID = max(m.nextID, l.ID+1)
	m.set(l.ID, newLockEntry(l, m.pack.pack(l), size), true)
}

func newLockEntry(l *Lock, r packed, size int) lockEntry {
	e := lockEntry{record: r, phase: l.Phase}
	if l.OnLost != "" {
		e.lost = uint32(size + lostSlack)
	}
	return e
}

// mark takes a mark. It packs a record that it changes anew, because rollback may need the old one.
func (m *mirror) mark(k *Mark) {
	m.nextID = max(m.nextID, k.ID+1)
	e, ok := m.locks[k.ID]
	if !ok {
		return
	}
	if k.Phase != 0 {
		e.phase = k.Phase
	}
	if k.HasMode || k.Session != "" {
		l := e.record.unpack()
		if k.HasMode {
			l.Mode, l.Token = k.Mode, k.Token
		}
		if k.Session != "" {
			l.Session, l.SessionBus = k.Session, k.SessionBus
		}
		e.record = m.pack.pack(&l)
	}
	m.set(k.ID, e, k.Phase != Gone)
}

// left ends a lockspace and every lock in it, except those whose loss is recorded.
func (m *mirror) left(name string) {
	if s, ok := m.spaces[name]; ok {
		m.oldSpaces = append(m.oldSpaces, oldSpace{name, true, s})
		m.need -= s.need()
		delete(m.spaces, name)
	}
	for id, e := range m.locks {
		if e.record.lockspace == name && e.phase != Lost {
			m.set(id, lockEntry{}, false)
		}
	}
}

// set replaces the entry of a lock, or removes it.
func (m *mirror) set(id uint64, e lockEntry, there bool) {
	old, had := m.locks[id]
	m.oldLocks = append(m.oldLocks, oldLock{id, had, old})
	if had {
		m.need -= old.need(id)
	}
	if !there {
		delete(m.locks, id)
		return
	}
	m.locks[id] = e
	m.need += e.need(id)
}

// setSpace takes a record of a lockspace that is not left.
func (m *mirror) setSpace(s Lockspace) {
	e, had := m.spaces[s.Name]
	m.oldSpaces = append(m.oldSpaces, oldSpace{s.Name, had, e})
	if had {
		m.need -= e.need()
	} else {
		e.size = int64(1 + len(appendSpace(nil, &Lockspace{Name: s.Name, Phase: Creating, AnchorID: 1<<32 - 1})))
	}
	e.phase, e.anchor = s.Phase, s.AnchorID
	m.spaces[s.Name] = e
	m.need += e.need()
}

// commit makes the changes since the last commit final.
func (m *mirror) commit() {
	clear(m.oldLocks) // they point to records
	m.needBefore, m.nextIDBefore = m.need, m.nextID
	m.oldLocks = m.oldLocks[:0]
	clear(m.oldSpaces)
	m.oldSpaces = m.oldSpaces[:0]
}

// rollback undoes the changes since the last commit, the newest first, so that of several changes of
// one lock the oldest entry is what stays. It is needed when the records could not be written: what is
// in memory is always what the file says.
func (m *mirror) rollback() {
	for i := len(m.oldLocks) - 1; i >= 0; i-- {
		if o := m.oldLocks[i]; o.had {
			m.locks[o.id] = o.lockEntry
		} else {
			delete(m.locks, o.id)
		}
	}
	for i := len(m.oldSpaces) - 1; i >= 0; i-- {
		if o := m.oldSpaces[i]; o.had {
			m.spaces[o.name] = o.spaceEntry
		} else {
			delete(m.spaces, o.name)
		}
	}
	m.need, m.nextID = m.needBefore, m.nextIDBefore
	m.commit()
}
