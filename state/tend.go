package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// Health returns why nothing new can be recorded, or nil if it can, as the last Append or Tend has
// found. Records that bring a lock to its end may be accepted nevertheless.
func (f *File) Health() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sick
}

// Tend looks after the file between two changes: it checks that the directory and the file are in
// their place and unchanged, and that there is room. If somebody has removed or spoiled the file,
// it writes the file again from memory, in a new directory if need be. Only one goroutine at a time
// may call Tend or Append.
func (f *File) Tend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.sick = f.tend()
	}
}

// tend looks at the directory, the name of the file, its contents and the room for new
// records, in this order: each is of use only if the one before is as it should be.
func (f *File) tend() error {
	moved, err := f.dir.moved()
	if err != nil {
		return writeError("look at", f.dir.path, err)
	}
	if moved {
		if err := f.restore(); err != nil {
			return err
		}
	}
	if err := f.inPlace(); err != nil {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	f.triedAt = f.triedAt.Add(-extendRetry)
	if _, err := f.makeRoom(f.refused, true); err != nil {
		return err
	}
	f.refused = 0
	if f.spare == nil {
		f.makeSpare()
	}
	return nil
}

// ready makes sure that there is room for n bytes in the file. place is the result of inPlace.
// short says why these bytes are among the last that can be written.
func (f *File) ready(place error, n int64, fresh bool) (short, err error) {
	err = place
	if err != nil && !fresh && f.dir.absent() {
		// The next start would find no file, and so nothing that says that the lock is still held.
		// The end is recorded in the open file, and is in the one that will be written again.
		short, err = err, f.clean()
	}
	if f.damaged && errors.Is(err, ErrDamaged) && !fresh {
		// The file can't be written again yet. A mark behind the damage is still of use: if the
		// service dies now, the next start sets the damage aside and uses the records that verify
		// on both sides of it.
		return err, f.clean()
	}
	if err != nil {
		return nil, err
	}
	low, err := f.makeRoom(n, fresh)
	return errors.Join(short, low), err
}

// inPlace makes sure that fd is the file that has the name. If somebody has removed or replaced the
// file, whatever is written to fd is recorded nowhere. This look costs about a tenth of the write.
func (f *File) inPlace() error {
	now, err := f.dir.look(stateName)
	if err == nil && now.id == f.id && now.modified.After(f.written) {
		f.suspect = true // tend checks it; our next write would hide the time
	}
	switch {
	case f.astray, errors.Is(err, unix.ENOENT), err == nil && now.id != f.id:
		return f.restore()
	case err != nil: // the look failed, which says nothing about the file
		return writeError("look at", f.Path(), err)
	case now.size < f.size, f.damaged:
		return f.repair()
	case now.size < f.alloc:
		f.alloc = now.size
	case now.size > f.alloc:
		f.log.Warn(fmt.Sprintf("%s has grown by %d bytes that the service did not write; cutting them off", f.Path(),
			now.size-f.alloc))
		if err := f.fd.Truncate(f.alloc); err != nil {
			return writeError("truncate", f.Path(), err)
		}
	}
	return f.clean()
}

// check compares the file with the mirror if somebody else has modified it, and repairs it if they
// differ. A file that was only touched stays as it is.
func (f *File) check() error {
	if !f.suspect {
		return nil
	}
	now, err := f.dir.look(stateName)
	if err != nil {
		return writeError("look at", f.Path(), err)
	}
	l, err := load(f.fd, min(now.size, f.alloc), false)
	if err != nil {
		return writeError("read", f.Path(), err)
	}
	if len(l.Damage) > 0 || l.Torn || l.foreign != 0 || l.end != f.size || !f.sameAsMirror(l) {
		return f.repair()
	}
	f.suspect = false
	f.written = latest(f.written, now.modified)
	return nil
}

// sameAsMirror reports whether a loaded file says what the mirror holds. A sound file may be a copy
// that somebody saved earlier.
func (f *File) sameAsMirror(l *loaded) bool {
	var found, want bytes.Buffer
	mine := f.mirror.contents()
	_, _ = writeContents(&found, l.Header, &l.Contents) // a buffer takes everything
	_, _ = writeContents(&want, f.header, &mine)
	return bytes.Equal(found.Bytes(), want.Bytes())
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// repair writes the file again from the mirror after somebody has cut it short or edited it. What
// they left is kept aside. On disk, if the process dies between two lines:
//
//	(edited)    what is left of the map: the next start uses the records that verify
//	setAside    the same, under a second name
//	newDraft    the same, and a draft that the next start removes
//	install     the whole map
//
// While it fails nothing new is recorded, and it is tried again at most once a second.
func (f *File) repair() error {
	f.mu.Unlock()
	f.background.Wait() // a compaction reads the file, and may be about to replace it
	f.mu.Lock()
	if !f.damaged {
		f.damaged = true
		f.log.Error(fmt.Sprintf("%s was cut short or edited by somebody else; writing it again as soon as possible",
			f.Path()))
	} else if time.Since(f.repairedAt) < repairRetry {
		return f.repairErr
	}
	f.repairedAt, f.repairErr = time.Now(), nil
	if err := f.rewrite(); err != nil {
		f.repairErr = writeError("repair", f.Path(), fmt.Errorf("%w: %w", ErrDamaged, err))
		return f.repairErr
	}
	f.log.Warn(f.Path() + " has been written again")
	return nil
}

// repairRetry is how long writing a damaged file again is not retried after a failure: the whole file
// is written each time.
const repairRetry = time.Second

// restore writes the file again after it has lost its name, in the directory that has the path now.
func (f *File) restore() error {
	f.mu.Unlock()
	f.background.Wait() // a compaction may be about to give it its name back
	f.mu.Lock()
	moved, err := f.dir.moved()
	if now, e := f.dir.look(stateName); err == nil && !moved && e == nil && now.id == f.id {
		f.found("is back in its place")
		return f.clean()
	}
	if !f.astray {
		f.astray = true
		f.log.Error(fmt.Sprintf("%s, or its directory, was removed or replaced by somebody else; writing it again "+
			"as soon as possible", f.Path()))
	}
	if err == nil && moved {
		if err = f.dir.follow(); err == nil {
			f.prompt.Store(f.dir.inMemory())
		}
	}
	if err != nil {
		return writeError("restore", f.Path(), err)
	}
	if err := f.rewrite(); err != nil {
		return err
	}
	f.found("has been written again")
	return nil
}

// found logs that the file has its name again, if its loss was logged.
func (f *File) found(how string) {
	if f.astray {
		f.astray = false
		f.log.Warn(f.Path() + " " + how)
	}
}

// rewrite writes the file again from the mirror. The file that has the name now is kept under
// another.
func (f *File) rewrite() error {
	err := f.dir.setAside(replacedName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return writeError("replace", f.Path(), err)
	}
	c := f.mirror.contents()
	if err := f.replace(&c); err != nil {
		return err
	}
	f.damaged = false
	if f.epoch == 0 {
		return nil
	}
	if err := f.writeEpoch(); err != nil { // it will be saved again in a while
		f.log.Warn("the token clock was not saved", "err", err)
	}
	return nil
}

// replace atomically makes c the contents of the file, under its name. It does without padding if
// there is no room for it.
func (f *File) replace(c *Contents) error {
	d, err := f.newDraft()
	if err != nil {
		return writeError("replace", f.Path(), err)
	}
	if err = d.write(f.header, c); err != nil {
		return writeError("replace", f.Path(), f.abandon(d, err))
	}
	if d.pad(f.mirror.need+spareRoom) != nil {
		d.alloc = d.size
		if err = d.fd.Truncate(d.size); err != nil {
			return writeError("replace", f.Path(), f.abandon(d, err))
		}
	}
	old, err := f.install(d)
	if err != nil {
		return writeError("replace", f.Path(), err)
	}
	if old != nil {
		old.Close()
	}
	f.use = usage{}
	f.use.written(d.size, len(c.Locks))
	return nil
}

// Advice says what to do about an error of this package, or of the system where this package met
// it: one sentence for people, without a full stop.
func Advice(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Advice != "" {
		return e.Advice
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room in the file system of the state directory"
	case errors.Is(err, unix.EFBIG):
		return "raise the service's file size limit (LimitFSIZE=)"
	case errors.Is(err, unix.EIO):
		return "the disk under the state directory is failing: see the kernel's log, and repair or replace the disk"
	case errors.Is(err, unix.EROFS):
		return "make the file system of the state directory writable; it is tried again each second"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return "let the service write to the state directory; it is tried again each second"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return "create the state directory again (mode 0700, owned by the user of the service); the service then " +
			"writes the state file again"
	case errors.Is(err, ErrDamaged):
		return "something else has written to the state file: do not restart the service before it has written the " +
			"file again; it tries each second"
	}
	return "see docs/troubleshooting.md under StateWriteFailed"
}
