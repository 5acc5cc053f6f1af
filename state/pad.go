package state

import (
	"bytes"
	"errors"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// How a change is written, and what is on disk if the process dies between two lines:
//
//	makeRoom  write padding behind the padding   more empty lines, which mean nothing
//	put       write over the padding at size     nothing of it; its beginning, then padding; all of it
//	(failed)  clean: padding over the remains    the same, until it succeeds
//
// Only padding is ever written behind the end of the file. Padding is real bytes: its blocks are
// allocated, so writing over it needs no space in the file system. (A copy-on-write file system
// such as btrfs needs some nevertheless; there the write may fail, and then the caller gets the
// error.)

// padding consists of line breaks, which are empty lines in TOML.
var padding = bytes.Repeat([]byte{'\n'}, 64<<10)

// extendRetry is how long a file that could not grow is not tried again for a change that can do
// without.
const extendRetry = time.Second

// growth is how much padding is added at once, in bytes: the larger the file, the more, so growing
// adds next to nothing to the cost of a change.
func growth(size int64) int64 {
	if size < 256<<10 {
		return 8 << 10
	}
	return 64 << 10
}

// writePadding writes padding between two offsets.
func writePadding(w io.WriterAt, from, to int64) error {
	for from < to {
		n, err := w.WriteAt(padding[:min(int64(len(padding)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// trimmed returns the offset at which the padding of a file of the given size begins: the length
// without any line breaks at the end.
func trimmed(r io.ReaderAt, size int64) (int64, error) {
	buf := make([]byte, 4<<10)
	for size > 0 {
		n := min(int64(len(buf)), size)
		if got, err := r.ReadAt(buf[:n], size-n); int64(got) < n {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		if !bytes.Equal(buf[:n], padding[:n]) {
			return size - n + int64(len(bytes.TrimRight(buf[:n], "\n"))), nil
		}
		size -= n
		if len(buf) < len(padding) {
			buf = make([]byte, len(padding))
		}
	}
	return 0, nil
}

// makeRoom makes sure that n bytes can be written and that the reserved padding stays free. If the
// file can't grow, a fresh change, which adds a lock or lockspace, is refused; any other change is
// written as long as the room reserved for the rest stays. short says why the file could not grow
// as it should.
func (f *File) makeRoom(n int64, fresh bool) (short, err error) {
	want := f.size + n + f.mirror.need
	if want+spareRoom <= f.alloc {
		return nil, nil
	}
	if !fresh && want <= f.alloc && f.sick != nil && time.Since(f.triedAt) < extendRetry {
		return f.sick, nil
	}
	f.triedAt = time.Now()
	err = f.extend(want + spareRoom + growth(f.size))
	if err != nil {
		err = f.extend(want + spareRoom)
	}
	if err != nil && f.reclaim(n) {
		return nil, nil
	}
	if err == nil {
		return nil, nil
	}
	short = writeError("extend", f.Path(), err)
	switch spent := f.mirror.needBefore - f.mirror.need; {
	case fresh:
		return nil, short
	case want <= f.alloc:
		return short, nil
	case n <= spent && f.extend(f.size+n) == nil:
		return short, nil
	}
	return nil, short
}

// extend makes the file at least as long as the offset to. On an error its length is unchanged.
func (i *image) extend(to int64) error {
	if to <= i.alloc {
		return nil
	}
	if err := writePadding(i.fd, i.alloc, to); err != nil {
		_ = i.fd.Truncate(i.alloc) // if that fails, there is more padding, which does no harm
		i.written = time.Now()
		return err
	}
	i.alloc, i.written = to, time.Now()
	return nil
}

// put writes b over the padding.
func (i *image) put(b []byte) error {
	_, err := i.fd.WriteAt(b, i.size)
	i.written = time.Now()
	if err != nil {
		i.dirtyTo = max(i.dirtyTo, i.size+int64(len(b)))
		_ = i.clean() // if that fails, the next Append tries again
		return writeError("append", i.path, err)
	}
	return nil
}

// clean turns the remains of a failed write, or of a crash, into padding again.
func (i *image) clean() error {
	if i.dirtyTo <= i.size {
		return nil
	}
	err := writePadding(i.fd, i.size, i.dirtyTo)
	i.written = time.Now()
	if err != nil {
		return writeError("clean", i.path, err)
	}
	i.dirtyTo = 0
	return nil
}

// reclaimMax is the largest file, in bytes, that is compacted while Append waits. That takes about
// ten milliseconds at most.
const reclaimMax = 4 << 20

// reclaim compacts a file that can't grow, if it contains history and what is still of use fits
// beside it. It reports whether n bytes can be written now.
func (f *File) reclaim(n int64) bool {
	target := f.use.live + n + f.mirror.need + spareRoom
	if f.compacting || f.size-f.use.live < spareRoom || target > f.free() {
		return false
	}
	f.compacting = true
	c := &compaction{src: f.fd, end: f.size, before: f.use, extra: n}
	if f.size > reclaimMax {
		f.background.Go(func() { f.compact(c) })
		return false
	}
	f.mu.Unlock() // only Append and Tend could interfere, and one of them is running this
	f.compact(c)
	f.mu.Lock()
	return f.size+n+f.mirror.need+spareRoom <= f.alloc
}

// free is how many bytes a new file may take: the free space of the file system and the spare file.
func (i *image) free() int64 {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(i.fd.Fd()), &fs); err != nil {
		return 0
	}
	free := int64(fs.Bavail) * fs.Bsize
	if i.spare != nil {
		free += spareSize
	}
	return free
}
