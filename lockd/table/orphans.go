package table

import (
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// lookForOrphans asks for the orphans of a lockspace, and returns that; unknownIn tells what
// came of it.
func (c *call) lookForOrphans(lockspace string) (*lockspace, *api.Error) {
	sp, e := c.usable(lockspace, "")
	if e == nil {
		c.t.look(sp, Question{}, c.op)
	}
	return sp, e
}

// unknownIn returns the orphans that no record explains.
func (c *call) unknownIn(sp *lockspace, k Looked) ([]dlm.Orphan, *api.Error) {
	if !k.HasOrphans {
		sp.orphans.unexplained = -1
		text := "the lock manager's tables can't be read"
		if len(k.Missing) > 0 {
			text += ": " + k.Missing[0]
		}
		return nil, c.errorOf(api.NotSupported, sp.name, "", dlm.None, text)
	}
	out := sp.orphans.among(k.Orphans)
	sp.orphans.unexplained = len(out)
	return out, nil
}

// orphansOp lists the orphans that no record explains, with what their value blocks
// tell. It changes nothing:
//
//	look at the engine's tables
//	read the value blocks with null locks, some at once
//	reply
type orphansOp struct {
	call
	lockspace string
	sp        *lockspace
	// What is listed; the holders are filled in as the value blocks are read.
	found  []api.Orphan
	toRead []int // places in found
	// How many value blocks are being read.
	reading int
}

// describeMost bounds how many value blocks one Orphans reads, and describeAtOnce
// how many of them at once.
const (
	describeMost   = 1024
	describeAtOnce = 32
)

func (o *orphansOp) result() Reply { return OrphansReply{o.found} }

func (o *orphansOp) waitsFor() obstacle { return o.t.obstacleOf(nil, o.lockspace, "", dlm.None) }

// start looks for the orphans.
func (o *orphansOp) start() {
	var e *api.Error
	if o.sp, e = o.lookForOrphans(o.lockspace); e != nil {
		o.refuse(e)
	}
}

// looked begins to read the value blocks of those that may have published something: orphans
// in PW and EX.
func (o *orphansOp) looked(k Looked) {
	found, e := o.unknownIn(o.sp, k)
	if e != nil {
		o.refuse(e)
		return
	}
	o.found = make([]api.Orphan, len(found))
	for i, orphan := range found {
		o.found[i].Orphan = orphan
		if orphan.Mode >= dlm.PW && !o.sp.raw && len(o.toRead) < describeMost {
			o.toRead = append(o.toRead, i)
		}
	}
	o.readOn()
}

// readOn reads more value blocks, and answers when all are read.
func (o *orphansOp) readOn() {
	for len(o.toRead) > 0 && o.reading < describeAtOnce && !o.answered {
		i := o.toRead[0]
		o.toRead = o.toRead[1:]
		o.reading++
		o.t.probes.read(o.sp, o.found[i].Resource, orphanReader{o, i})
	}
	if o.reading == 0 && len(o.toRead) == 0 {
		o.reply()
	}
}

// orphanReader takes the value block of one orphan.
type orphanReader struct {
	*orphansOp
	i int
}

// valueRead fills in the holder, and has the next value block read.
func (r orphanReader) valueRead(ev dlm.Event) {
	r.reading--
	found := &r.found[r.i]
	found.Holder, found.HasHolder = r.t.publishedBy(found.Mode, ev)
	r.readOn()
}

// purgeOp removes the orphans that the caller has seen, if they still are exactly
// those; with some, if those are still there. Each is adopted and then unlocked: the
// kernel's purge takes whatever is there, and meets a kernel bug if a ghost is among
// it.
//
// The order of events, and what a crash after each line leaves:
//
//	look at the engine's tables   the orphans, as before
//	for each: Adopt               an orphan, as before
//	          Unlock              nothing
//	reply                         nothing
//
// If its time is over or its session is gone, it stops after the orphan that is
// under way.
type purgeOp struct {
	call
	lockspace string
	// What the caller has seen; see Purge.
	expect []dlm.LockID
	some   bool
	sp     *lockspace
	// Those that are still to be removed.
	left []dlm.Orphan
	// The one whose Unlock is in flight.
	unlocking *lock
	// How many are removed. It is part of the answer also if the call has failed.
	count uint32
}

func (o *purgeOp) result() Reply { return ReleasedReply{o.count} }

func (o *purgeOp) waitsFor() obstacle { return o.t.obstacleOf(nil, o.lockspace, "", dlm.None) }

// start looks for the orphans.
func (o *purgeOp) start() {
	var e *api.Error
	if o.sp, e = o.lookForOrphans(o.lockspace); e != nil {
		o.refuse(e)
	}
}

// looked compares what is there with what the caller has seen, and begins with the first one.
func (o *purgeOp) looked(k Looked) {
	found, e := o.unknownIn(o.sp, k)
	if e != nil {
		o.refuse(e)
		return
	}
	ids := slices.Sorted(slices.Values(o.expect))
	if o.some {
		ids = slices.Compact(ids)
		found = slices.DeleteFunc(found, func(orphan dlm.Orphan) bool {
			_, meant := slices.BinarySearch(ids, orphan.LockID)
			return !meant
		})
	}
	if !slices.EqualFunc(ids, found, func(id dlm.LockID, orphan dlm.Orphan) bool { return id == orphan.LockID }) {
		o.refuse(o.errorOf(api.InvalidArgs, o.lockspace, "", dlm.None,
			"the orphans are not those that were named").WithArgument(api.ArgLockIDs).WithHint(api.HintListOrphans))
		return
	}
	o.left = found
	o.next()
}

// next removes the next orphan.
func (o *purgeOp) next() {
	if !o.sp.open() {
		o.fail(o.errorOf(api.NoSuchLockspace, o.sp.name, "", dlm.None,
			"the lockspace went away while its orphans were removed"))
		o.left = nil
	}
	if len(o.left) == 0 || o.answered {
		o.sp.orphans.look()
		o.reply()
		return
	}
	orphan := o.left[0]
	o.left = o.left[1:]
	o.sp.orphans.take(orphan, o)
}

// orphanTaken unlocks the orphan, once it is adopted.
func (o *purgeOp) orphanTaken(l *lock) {
	if l == nil || l.inFlight() { // gone by itself; another Purge is at it
		o.next()
		return
	}
	o.unlocking, l.state = l, lockUnlocking
	o.t.probes.readers[l] = o
	o.t.do(UnlockAction{Lockspace: l.sp.id, Cookie: l.cookie()})
}

// valueRead takes the end of the Unlock of an orphan, which is one of the table's
// own locks.
func (o *purgeOp) valueRead(ev dlm.Event) {
	if ev.Status.OK() {
		o.count++
	} else {
		o.fail(o.statusError(o.unlocking, dlm.None, ev.Status))
	}
	o.next()
}
