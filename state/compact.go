package state

import (
	"fmt"
	"io"
	"os"
	"time"
)

// writeSize is how many bytes of a new file are written at a time.
const writeSize = 256 << 10

// tailSize is how many bytes of the tail may remain to be copied while Append waits.
const tailSize = 64 << 10

// usage estimates how many bytes of the file are still of use, without remembering each record:
// when a lock ends, the mean size of a lock is subtracted.
type usage struct {
	live      int64 // bytes that a compaction would keep
	lockBytes int64 // of all locks written
	locks     int64
}

// add counts a record that was written. Records that replace others count only once.
func (u *usage) add(c Change, size int) {
	switch c := c.(type) {
	case Lock:
		if c.Phase == Lost {
			return // it replaces the record of the lock that is lost
		}
		u.lock(size)
		u.live += int64(size)
	case Lockspace:
		if c.Phase == Creating { // the records that follow replace it
			u.live += int64(size)
		}
	case Mark:
		if c.Phase == Gone {
			u.live = max(0, u.live-u.mean())
		}
	}
}

func (u *usage) lock(size int) {
	u.lockBytes += int64(size)
	u.locks++
}

// mean is the size of a lock's record on the average, over all that were ever written.
func (u *usage) mean() int64 {
	if u.locks == 0 {
		return 0
	}
	return u.lockBytes / u.locks
}

// settle sets live for a file that holds so many locks and lockspaces.
func (u *usage) settle(locks, spaces int) {
	const header, space = 1 << 10, 96 // rough sizes
	u.live = header + int64(locks)*u.mean() + int64(spaces)*space
}

// written sets the usage of a file that has just been written.
func (u *usage) written(size int64, locks int) {
	*u = usage{live: size, lockBytes: size, locks: int64(locks)}
	if locks == 0 {
		u.lockBytes = 0
	}
}

// writeContents writes a whole file and returns its size.
func writeContents(w io.Writer, h Header, c *Contents) (size int64, err error) {
	b := make([]byte, 0, writeSize+writeSize/8)
	flush := func(atLeast int) {
		if err != nil || len(b) < atLeast {
			return
		}
		var n int
		n, err = w.Write(b)
		size += int64(n)
		b = b[:0]
	}
	b = appendHeader(b, h, c.NextID)
	for i := range c.Spaces {
		b = appendSpace(append(b, '\n'), &c.Spaces[i])
		flush(writeSize)
	}
	for i := range c.Locks {
		b = appendLock(append(b, '\n'), &c.Locks[i])
		flush(writeSize)
	}
	flush(1)
	return size, err
}

// compactIfWorth starts a compaction when more than half of the file is history. The next one is
// then at least as many bytes away as this one keeps, so all compactions together add a constant
// cost to each change.
func (f *File) compactIfWorth() {
	if f.compacting || f.size < f.compactMin || f.size < f.retryAt || f.size <= 2*f.use.live {
		return
	}
	f.compacting = true
	c := &compaction{src: f.fd, end: f.size, before: f.use}
	f.background.Go(func() { f.compact(c) })
}

// compaction is a compaction in progress.
type compaction struct {
	src    *os.File // the running file
	end    int64    // how much of src is already in dst, folded or copied
	before usage    // the usage when it began
	extra  int64    // room that is needed beside what is reserved

	dst   *draft
	after usage
}

// compact writes what is still of use in the running file to a new file, copies what was appended
// meanwhile, and replaces the old file with the new one. If it fails, the running file is as it
// was.
func (f *File) compact(c *compaction) {
	err := f.fold(c)
	if err == nil {
		err = f.follow(c)
	}
	if err == nil {
		err = f.goOver(c)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compacting = false
	if err != nil {
		f.retryAt = f.size + max(f.compactMin, f.size/4)
		f.log.Warn("could not compact the state file; it stays as it is, and compaction will be tried again", "err",
			err)
		return
	}
	f.makeSpare()
}

// fold writes the new file from what the running one held when the compaction began.
func (f *File) fold(c *compaction) error {
	l, err := load(c.src, c.end, false)
	if err != nil {
		return err
	}
	f.mu.Lock()
	if len(l.Damage) > 0 || l.Torn || l.foreign != 0 {
		f.suspect = true
		f.mu.Unlock()
		return ErrDamaged
	}
	c.dst, err = f.newDraft()
	room := c.extra + f.mirror.need + spareRoom
	f.mu.Unlock()
	if err != nil {
		return err
	}
	if err = c.dst.write(f.header, &l.Contents); err == nil {
		c.after.written(c.dst.size, len(l.Locks))
		err = c.dst.pad(room)
	}
	return f.unless(c.dst, err)
}

// follow copies what was appended meanwhile, until little is left.
func (f *File) follow(c *compaction) error {
	for range 8 {
		f.mu.Lock()
		now := f.size
		f.mu.Unlock()
		if now-c.end <= tailSize {
			return nil
		}
		if err := c.copyTail(now); err != nil {
			return f.unless(c.dst, err)
		}
	}
	return nil
}

// unless abandons the draft if there is an error.
func (f *File) unless(d *draft, err error) error {
	if err == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.abandon(d, err)
}

// goOver copies the rest and makes the new file the running one. Append has to wait only for this
// part of a compaction.
func (f *File) goOver(c *compaction) error {
	f.mu.Lock()
	before, begin := f.size, time.Now()
	err := f.untouched()
	if err == nil {
		err = c.copyTail(f.size)
	}
	if room := c.extra + f.mirror.need + spareRoom; err == nil && c.dst.alloc < c.dst.size+room {
		err = c.dst.pad(room)
	}
	if err != nil {
		defer f.mu.Unlock()
		return f.abandon(c.dst, err)
	}
	old, err := f.install(c.dst)
	if err != nil {
		f.mu.Unlock()
		return err
	}
	c.after.live = max(0, c.after.live+f.use.live-c.before.live)
	f.use, f.retryAt = c.after, 0
	size, stall := f.size, time.Since(begin)
	f.mu.Unlock()
	old.Close()
	f.log.Debug(fmt.Sprintf("compacted the state file from %d to %d bytes; writing waited for %v", before, size, stall))
	return nil
}

// untouched returns an error if somebody else has modified the file, so that what was read from it
// can't be relied on.
func (f *File) untouched() error {
	now, err := f.dir.look(stateName)
	if err == nil && now.id == f.id && (now.size < f.size || now.modified.After(f.written)) {
		f.suspect = true
	}
	if f.suspect || f.damaged {
		return ErrDamaged
	}
	return nil
}

// copyTail copies the running file up to the offset to. A check does not depend on the position of
// its record, so records are copied as they are.
func (c *compaction) copyTail(to int64) error {
	d := c.dst
	n, err := io.Copy(io.NewOffsetWriter(d.fd, d.size), io.NewSectionReader(c.src, c.end, to-c.end))
	d.size, c.end = d.size+n, c.end+n
	d.alloc = max(d.alloc, d.size)
	return err
}
