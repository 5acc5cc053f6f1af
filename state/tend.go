package state

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"
)

// Health says why nothing new can be written down, or nil if it can: what the
// last Append or Tend has found. What brings a lock to its end may be written
// all the same.
func (f *File) Health() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sick
}

// Tend looks after the file between two changes: that the directory and the file
// are where they were, and that there is room. It writes the file again under
// its name, in a directory that it makes if need be, if somebody has removed
// either. One goroutine at a time may call it or Append.
func (f *File) Tend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.sick = f.tend()
	}
}

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
	if _, err := f.makeRoom(0, true); err != nil {
		return err
	}
	if f.spare == nil {
		f.makeSpare()
	}
	return nil
}

// ready makes sure that there is room for n bytes in the file. place is what inPlace has returned.
// short says why they are among the last bytes that can be written.
func (f *File) ready(place error, n int64, fresh bool) (short, err error) {
	err = place
	if err != nil && !fresh && f.dir.absent() {
		// The next start finds no file and so no lock that could be taken for a
		// held one. What ends is noted in the file that is open, for the one that
		// will be written again.
		short, err = err, f.clean()
	}
	if f.damaged && errors.Is(err, ErrDamaged) && !fresh {
		// The file can't be written again yet. Behind the damage a mark is as good as anywhere: if the
		// service dies now, the next start sets the damage aside and uses the records that verify on
		// both sides of it.
		return err, f.clean()
	}
	if err != nil {
		return nil, err
	}
	low, err := f.makeRoom(n, fresh)
	return errors.Join(short, low), err
}

// inPlace makes sure that what is written to fd is written to the file of that
// name. Someone may have removed or replaced the file; then a lock that was
// written down would be written down nowhere. The look costs about as much as
// a tenth of the write.
func (f *File) inPlace() error {
	now, err := f.dir.look(stateName)
	if err == nil && now.id == f.id && now.modified.After(f.written) {
		f.suspect = true // tend checks it; the next write of our own would hide the time
	}
	switch {
	case f.astray, errors.Is(err, unix.ENOENT), err == nil && now.id != f.id:
		return f.restore()
	case err != nil: // could not look; that says nothing of the file
		return writeError("look at", f.Path(), err)
	case now.size < f.size, f.damaged:
		return f.repair()
	case now.size < f.alloc:
		f.alloc = now.size
	case now.size > f.alloc:
		f.log.Warn(fmt.Sprintf("%s has grown by %d bytes that the service did not write; cutting them off", f.Path(), now.size-f.alloc))
		if err := f.fd.Truncate(f.alloc); err != nil {
			return writeError("truncate", f.Path(), err)
		}
	}
	return f.clean()
}

// check compares the file with the mirror if somebody else has modified it, and repairs it if it says
// something else. A file that was only touched is left alone.
func (f *File) check() error {
	if !f.suspect {
		return nil
	}
	now, err := f.dir.look(stateName)
	if err != nil {
		return writeError("look at", f.Path(), err)
	}
	l, err := load(f.fd, min(now.size, f.alloc))
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

// sameAsMirror reports whether a file that was loaded says what the mirror holds: it may be a sound
// copy that was saved earlier.
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
		f.log.Error(fmt.Sprintf("%s was cut short or edited by somebody else; writing it again as soon as possible", f.Path()))
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

// restore writes the file again from the one that is open but has lost its
// name, in the directory that has the path now.
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
		f.log.Error(fmt.Sprintf("%s, or its directory, was removed or replaced by somebody else; writing it again as soon as possible", f.Path()))
	}
	if err == nil && moved {
		err = f.dir.follow()
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

// found says that the file has its name again, if it was said that it has not.
func (f *File) found(how string) {
	if f.astray {
		f.astray = false
		f.log.Warn(f.Path() + " " + how)
	}
}

// rewrite writes the file anew from the mirror. The file that has its name now is kept aside.
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
	if err := f.writeEpoch(); err != nil { // it is noted again in a while
		f.log.Warn("the token clock was not saved", "err", err)
	}
	return nil
}

// replace makes c the contents of the file, under its name, at once. It does
// without padding if there is no room for it.
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

// Advice says what to do about an error of this package, or of the system where
// this package has met it: one sentence for people, without a full stop.
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
		return "create the state directory again (mode 0700, owned by the user of the service); the service then writes the state file again"
	case errors.Is(err, ErrDamaged):
		return "something else has written to the state file: do not restart the service before it has written the file again; it tries each second"
	}
	return "see docs/troubleshooting.md under StateWriteFailed"
}
