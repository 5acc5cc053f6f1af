package state

import "strconv"

// The file ends in padding, and the padding is spoken for: it always has the
// room for the records that bring everything in the file to its end. So what
// lets go of a lock can be written down when nothing else can, because the file
// system is full. A change that takes on something new finds the room for its
// end first, or is refused.

// spareRoom is how much padding there is beyond what is spoken for, in bytes.
// Changes that end nothing and begin nothing come out of it when the file can't
// grow: a new mode, a new connection, a lock that could not be unlocked.
const spareRoom = 4 << 10

// lostSlack is how much longer the record of a loss can be than that of the
// lock, in bytes: the reason, and a token or a sender that has grown since.
const lostSlack = 256

// debt is what is left to be written of one lock.
type debt struct {
	lost  uint32 // what the record of a loss takes, in bytes; 0 if the lock names no helper
	space uint32 // index of its lockspace in room.index
	phase Phase
}

// spaceDebt is what is left to be written of one lockspace.
type spaceDebt struct {
	size  int64 // of one record of it
	phase SpacePhase
}

// room counts the padding that is spoken for.
type room struct {
	need   int64 // bytes
	locks  map[uint64]debt
	spaces map[string]spaceDebt
	index  map[string]uint32 // a number for each name of a lockspace

	// What the changes since commit have replaced, the newest last.
	before    int64
	oldLocks  []oldDebt
	oldSpaces []oldSpaceDebt
}

type (
	oldDebt struct {
		id  uint64
		had bool
		debt
	}
	oldSpaceDebt struct {
		name string
		had  bool
		spaceDebt
	}
)

// newRoom counts what the contents of a file need.
func newRoom(c *Contents) *room {
	r := &room{locks: make(map[uint64]debt, len(c.Locks)), spaces: map[string]spaceDebt{}, index: map[string]uint32{}}
	r.oldLocks = make([]oldDebt, 0, len(c.Locks))
	for _, s := range c.Spaces {
		r.setSpace(s.Name, s.Phase)
	}
	var buf []byte
	for i := range c.Locks {
		size := 0
		if c.Locks[i].OnLost != "" {
			buf = appendLock(buf[:0], &c.Locks[i])
			size = len(buf) + 1
		}
		r.lock(&c.Locks[i], size)
	}
	r.oldLocks, r.oldSpaces = nil, nil // nothing to go back to
	r.commit()
	return r
}

// add counts one change that takes size bytes. fresh is true for one that takes
// on a lock or a lockspace that was not there.
func (r *room) add(c Change, size int) (fresh bool) {
	switch c := c.(type) {
	case Lock:
		r.lock(&c, size)
		return c.Phase != Lost
	case Mark:
		r.mark(&c)
	case Lockspace:
		if c.Phase == Left {
			r.left(c.Name)
			return false
		}
		_, known := r.spaces[c.Name]
		r.setSpace(c.Name, c.Phase)
		return !known
	}
	return false
}

func (r *room) lock(l *Lock, size int) {
	i, ok := r.index[l.Lockspace]
	if !ok {
		i = uint32(len(r.index))
		r.index[l.Lockspace] = i
	}
	d := debt{phase: l.Phase, space: i}
	if l.OnLost != "" {
		d.lost = uint32(size + lostSlack)
	}
	r.set(l.ID, d, true)
}

func (r *room) mark(m *Mark) {
	d, ok := r.locks[m.ID]
	if !ok || m.Phase == 0 {
		return
	}
	d.phase = m.Phase
	r.set(m.ID, d, m.Phase != Gone)
}

// left ends a lockspace and every lock in it.
func (r *room) left(name string) {
	if s, ok := r.spaces[name]; ok {
		r.oldSpaces = append(r.oldSpaces, oldSpaceDebt{name, true, s})
		r.need -= s.need()
		delete(r.spaces, name)
	}
	i, ok := r.index[name]
	if !ok {
		return
	}
	for id, d := range r.locks {
		if d.space == i && d.phase != Lost {
			r.set(id, debt{}, false)
		}
	}
}

// set gives a lock another debt, or none.
func (r *room) set(id uint64, d debt, there bool) {
	old, had := r.locks[id]
	r.oldLocks = append(r.oldLocks, oldDebt{id, had, old})
	if had {
		r.need -= old.need(id)
	}
	if !there {
		delete(r.locks, id)
		return
	}
	r.locks[id] = d
	r.need += d.need(id)
}

func (r *room) setSpace(name string, p SpacePhase) {
	s, had := r.spaces[name]
	r.oldSpaces = append(r.oldSpaces, oldSpaceDebt{name, had, s})
	if had {
		r.need -= s.need()
	} else {
		s.size = int64(1 + len(appendSpace(nil, &Lockspace{Name: name, Phase: Creating, AnchorID: 1<<32 - 1})))
	}
	s.phase = p
	r.spaces[name] = s
	r.need += s.need()
}

// commit makes the changes since the last commit the truth.
func (r *room) commit() {
	r.before, r.oldLocks = r.need, r.oldLocks[:0]
	clear(r.oldSpaces)
	r.oldSpaces = r.oldSpaces[:0]
}

// rollback takes the changes since the last commit back.
func (r *room) rollback() {
	for i := len(r.oldLocks) - 1; i >= 0; i-- {
		if o := r.oldLocks[i]; o.had {
			r.locks[o.id] = o.debt
		} else {
			delete(r.locks, o.id)
		}
	}
	for i := len(r.oldSpaces) - 1; i >= 0; i-- {
		if o := r.oldSpaces[i]; o.had {
			r.spaces[o.name] = o.spaceDebt
		} else {
			delete(r.spaces, o.name)
		}
	}
	r.need = r.before
	r.commit()
}

// need is what the rest of the life of a lock takes: the marks "held",
// "releasing" and "gone", or in the place of the first two the record of its
// loss.
func (d debt) need(id uint64) int64 {
	n := markSize(id, Gone)
	switch d.phase {
	case Granted:
		n += markSize(id, Held) + max(markSize(id, Releasing), int64(d.lost))
	case Held:
		n += max(markSize(id, Releasing), int64(d.lost))
	}
	return n
}

// need is what the rest of a membership takes: joined, leaving, left.
func (s spaceDebt) need() int64 { return s.size * int64(Left-s.phase) }

// markSize is the size of a mark with nothing but a phase, with the empty line
// before it.
func markSize(id uint64, p Phase) int64 {
	var digits [20]byte
	return int64(1 + len(markTable) + len("id = \n") + len(strconv.AppendUint(digits[:0], id, 10)) +
		len("phase = \"\"\n") + len(phaseNames[p]) + checkLen)
}
