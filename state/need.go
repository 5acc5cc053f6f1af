package state

import "strconv"

// The padding at the end of the file is reserved: it always has room for the records that bring
// everything in the file to its end. So a release can be recorded even when the file system is full
// and nothing else can be written. A change that adds something first finds room for its end, or is
// refused.

// spareRoom is how much padding there is beyond what is reserved, in bytes. Changes that neither add
// nor end anything use it when the file can't grow: a new mode, a new connection, a lock that could
// not be unlocked.
const spareRoom = 4 << 10

// lostSlack is how much longer the record of a loss can be than that of the lock, in bytes: the
// reason, and a token or a sender that has grown since.
const lostSlack = 256

// need is the size of the records that the rest of a lock's life takes: the marks "held",
// "releasing" and "gone", or in place of the first two the record of its loss.
func (e lockEntry) need(id uint64) int64 {
	n := markSize(id, Gone)
	switch e.phase {
	case Granted:
		n += markSize(id, Held) + max(markSize(id, Releasing), int64(e.lost))
	case Held:
		n += max(markSize(id, Releasing), int64(e.lost))
	}
	return n
}

// need is the size of the records that the rest of a membership takes: joined, leaving, left.
func (e spaceEntry) need() int64 { return e.size * int64(Left-e.phase) }

// markSize is the size of a mark that has only a phase, with the empty line before it.
func markSize(id uint64, p Phase) int64 {
	var digits [20]byte
	return int64(1 + len(markTable) + len("id = \n") + len(strconv.AppendUint(digits[:0], id, 10)) +
		len("phase = \"\"\n") + len(phaseNames[p]) + checkLen)
}
