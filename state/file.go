package state

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Header is the top of the file: which run of which node the records are of.
type Header struct {
	Format   int    // version of the schema
	BootID   string // /proc/sys/kernel/random/boot_id: locks die with the boot
	NodeID   uint32 // the cluster's number for this node
	Cluster  string // the cluster's name; "" where there is none
	Engine   string // what --engine calls it
	Instance string // names this state directory in anchor locks; as old as the file
	Created  time.Time
}

// Contents is what a file said, folded: marks applied, Gone and Left dropped.
type Contents struct {
	Header Header      // as found; zero if there was no file or both headers were damaged
	Locks  []Lock      // in order of ID
	Spaces []Lockspace // sorted by name
	// NextID is larger than every ID in the file, ever. After damage it skips
	// damageSkip numbers, because the damage may have hidden some.
	NextID uint64
	// Torn says that the last record was unfinished and was dropped: a crash
	// in the middle of a write, of which nobody was told that it succeeded.
	Torn        bool
	Quarantined string   // name of the copy of a damaged file; "" if it was sound
	Damage      []Damage // what could not be used, in order of Offset
}

// Damage is a piece of the file that can't be used.
type Damage struct {
	Offset, Length int64 // bytes
	Reason         string
}

// Options say for which run the file is opened.
type Options struct {
	// Header of this run. BootID and Engine must be set. Format is always the
	// one of this package. Created is the file's, or for a new file this one, or
	// now if it is zero. An Instance of "" keeps the file's or makes a new random
	// one.
	Header Header
	// CompactMin is the size in bytes below which a file is never compacted.
	// 0 is 1 MiB.
	CompactMin int64
	Log        *slog.Logger     // nil: slog.Default()
	Now        func() time.Time // nil: time.Now
}

// File is the open state file. It holds the lock of its directory.
type File struct {
	dir        *directory
	log        *slog.Logger
	compactMin int64
	header     Header
	background sync.WaitGroup // the compaction that runs, if any

	mu         sync.Mutex
	fd         *os.File
	id         fileID
	size       int64 // where the next record goes
	dirty      bool  // there may be bytes behind size that a failed write left
	use        usage
	buf        []byte
	compacting bool
	retryAt    int64 // no compaction below this size, since one failed
	closed     bool
}

// maxKeptBuffer is how large a buffer Append keeps for the next time, in bytes.
const maxKeptBuffer = 1 << 20

// Open takes the directory dir, makes it if it is missing, loads the file and
// leaves a sound one for this run. Contents are what was found:
//
//   - With the boot id of this run they are the records to go on with.
//   - With another boot id, or with none because both headers were damaged, they
//     are history: the new file holds none of them. The old one stays aside as
//     state.toml.previous-boot (or quarantined).
//
// The error is an *Error, or a *WriteError where a new file could not be
// written. After an error the file is as it was.
func Open(dir string, o Options) (*File, Contents, error) {
	if o.Header.BootID == "" || o.Header.Engine == "" {
		return nil, Contents{}, &Error{Op: "open", Path: dir, Err: fmt.Errorf("%w: a header without boot id or engine", ErrRecord)}
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CompactMin == 0 {
		o.CompactMin = 1 << 20
	}
	d, err := openDirectory(dir)
	if err != nil {
		return nil, Contents{}, err
	}
	f := &File{dir: d, log: o.Log, compactMin: o.CompactMin}
	c, err := f.start(o)
	if err != nil {
		f.closed = true
		if f.fd != nil {
			f.fd.Close()
		}
		d.close()
		return nil, Contents{}, err
	}
	return f, c, nil
}

// start loads what is there and makes it the file of this run.
func (f *File) start(o Options) (Contents, error) {
	f.dir.removeTemporary()
	l, err := f.read()
	if err != nil {
		return Contents{}, err
	}
	now := o.Now()
	f.header = headerFor(o.Header, l.Header, now)
	if err := f.refuse(l); err != nil {
		return Contents{}, err
	}
	report(f.log, f.Path(), l)
	sameBoot := l.Header.BootID == f.header.BootID
	switch {
	case len(l.Damage) > 0:
		l.Quarantined, err = f.dir.quarantine(now)
		if err != nil {
			return Contents{}, &WriteError{"quarantine", f.Path(), err}
		}
		f.log.Error("the damaged state file is kept", "path", filepath.Join(f.dir.path, l.Quarantined))
	case f.fd == nil:
	case !sameBoot:
		if err := f.dir.setAside(); err != nil {
			return Contents{}, &WriteError{"set aside", f.Path(), err}
		}
	case l.Header == f.header:
		return l.Contents, f.goOnWith(l)
	}
	keep := Contents{NextID: l.NextID}
	if sameBoot {
		keep = l.Contents
	}
	if err := f.replace(&keep); err != nil {
		return Contents{}, err
	}
	return l.Contents, nil
}

// read loads the file, if there is one.
func (f *File) read() (*loaded, error) {
	fd, err := f.dir.openRegular(stateName, os.O_RDWR)
	if errors.Is(err, os.ErrNotExist) {
		return &loaded{Contents: Contents{NextID: 1}}, nil
	}
	if err != nil {
		return nil, err
	}
	f.fd = fd
	info, err := fd.Stat()
	if err != nil {
		return nil, &Error{Op: "load", Path: f.Path(), Err: err}
	}
	l, err := load(fd, info.Size())
	if err != nil {
		return nil, &Error{Op: "load", Path: f.Path(), Err: err}
	}
	return l, nil
}

// refuse says why the file that was read is not for this run.
func (f *File) refuse(l *loaded) error {
	if l.foreign != 0 {
		return &Error{Op: "load", Path: f.Path(), Err: fmt.Errorf("%w: %d", ErrFormat, l.foreign),
			Advice: "a newer dlmlockd wrote it: run that one, or release its locks and remove the file"}
	}
	if l.Header.BootID == f.header.BootID && l.Header.Engine != f.header.Engine && len(l.Locks)+len(l.Spaces) > 0 {
		return &Error{Op: "load", Path: f.Path(), Err: fmt.Errorf("%w: %q, not %q", ErrEngine, l.Header.Engine, f.header.Engine),
			Advice: fmt.Sprintf("start dlmlockd with --engine=%s, release the locks and leave the lockspaces; then change the engine", l.Header.Engine)}
	}
	return nil
}

// goOnWith keeps the file as it is, without an unfinished record.
func (f *File) goOnWith(l *loaded) error {
	if l.Torn {
		if err := f.fd.Truncate(l.end); err != nil {
			return &WriteError{"truncate", f.Path(), err}
		}
	}
	id, err := identify(f.fd)
	if err != nil {
		return &Error{Op: "check", Path: f.Path(), Err: err}
	}
	f.id, f.size, f.use = id, l.end, l.use
	return nil
}

// headerFor completes the header of this run from the one that was found.
func headerFor(h, found Header, now time.Time) Header {
	h.Format = format
	sameBoot := found.BootID == h.BootID
	if h.Instance == "" && sameBoot {
		h.Instance = found.Instance
	}
	if h.Instance == "" {
		var b [16]byte
		rand.Read(b[:]) // never fails
		h.Instance = hex.EncodeToString(b[:])
	}
	switch {
	case sameBoot:
		h.Created = found.Created
	case h.Created.IsZero():
		h.Created = now
	}
	h.Created = h.Created.UTC().Round(0)
	return h
}

// maxReported is how many pieces of damage get a log line of their own.
const maxReported = 20

func report(log *slog.Logger, path string, l *loaded) {
	if l.Torn {
		log.Warn(fmt.Sprintf("dropped the unfinished last record of %s, %d bytes: nobody was told that it was written", path, l.size-l.end))
	}
	for i, d := range l.Damage {
		if i == maxReported {
			log.Error(fmt.Sprintf("%s: %d more pieces are damaged", path, len(l.Damage)-i))
			return
		}
		log.Error(fmt.Sprintf("%s: %d bytes at offset %d can not be used: %s", path, d.Length, d.Offset, d.Reason))
	}
}

// Append writes changes, in their order, with one write. It does all of it or
// nothing: after a *WriteError nothing of it is in the file, and the same call
// may be made again. An error that wraps ErrRecord is a mistake in changes. A
// crash in the middle may leave the first few of them.
func (f *File) Append(changes []Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	use, b := f.use, f.buf[:0]
	for _, c := range changes {
		if err := validate(c); err != nil {
			return err
		}
		start := len(b)
		b = appendChange(b, c)
		use.add(c, len(b)-start)
	}
	if cap(b) <= maxKeptBuffer {
		f.buf = b
	}
	if err := f.ready(); err != nil {
		return err
	}
	if _, err := f.fd.WriteAt(b, f.size); err != nil {
		f.dirty = true // whatever the count says: os.File does not count the part that was written
		f.cutBack()    // if that fails, the next Append tries again
		return &WriteError{"append", f.Path(), err}
	}
	f.size += int64(len(b))
	f.use = use
	f.compactIfWorth()
	return nil
}

// ready makes sure that what is written to fd is written to the file of that
// name. Someone may have removed or replaced the file; then a lock that was
// written down would be written down nowhere. The look costs about as much as
// a tenth of the write.
func (f *File) ready() error {
	if f.closed {
		return &WriteError{"append", f.Path(), os.ErrClosed}
	}
	id, size, err := f.dir.look(stateName)
	if err != nil || id != f.id {
		return f.restore()
	}
	if size < f.size {
		return &WriteError{"append", f.Path(), ErrDamaged}
	}
	if size > f.size && !f.dirty {
		f.log.Warn(fmt.Sprintf("%s has grown by %d bytes that are not from here, cutting them off", f.Path(), size-f.size))
		f.dirty = true
	}
	return f.cutBack()
}

// cutBack removes what is behind the last record.
func (f *File) cutBack() error {
	if !f.dirty {
		return nil
	}
	if err := f.fd.Truncate(f.size); err != nil {
		return &WriteError{"truncate", f.Path(), err}
	}
	f.dirty = false
	return nil
}

// restore writes the file again from the one that is open but has lost its
// name.
func (f *File) restore() error {
	f.mu.Unlock()
	f.background.Wait() // a compaction may be about to give it its name back
	f.mu.Lock()
	if id, _, err := f.dir.look(stateName); err == nil && id == f.id {
		return f.cutBack()
	}
	f.log.Error(fmt.Sprintf("%s was removed or replaced by somebody else, writing it again", f.Path()))
	l, err := load(f.fd, f.size)
	if err != nil {
		return &WriteError{"replace", f.Path(), err}
	}
	if len(l.Damage) > 0 {
		return &WriteError{"replace", f.Path(), ErrDamaged}
	}
	return f.replace(&l.Contents)
}

// replace makes c the contents of the file, under its name, at once.
func (f *File) replace(c *Contents) error {
	fd, size, err := f.writeTemporary(f.header, c)
	if err != nil {
		return &WriteError{"replace", f.Path(), err}
	}
	old, err := f.install(fd, size)
	if err != nil {
		return &WriteError{"replace", f.Path(), err}
	}
	if old != nil {
		old.Close()
	}
	f.use = usage{}
	f.use.written(size, len(c.Locks))
	return nil
}

// install gives a complete temporary file the name of the state file and goes
// on with it. The old one, if there was one, is returned for the caller to
// close: that frees all its pages, which takes milliseconds. On an error the
// old one stays in use.
func (f *File) install(fd *os.File, size int64) (old *os.File, err error) {
	id, err := identify(fd)
	if err == nil {
		err = f.dir.root.Rename(temporaryName, stateName)
	}
	if err != nil {
		return nil, f.abandon(fd, err)
	}
	old = f.fd
	f.fd, f.id, f.size, f.dirty = fd, id, size, false
	return old, nil
}

func identify(fd *os.File) (fileID, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(fd.Fd()), &st)
	return fileID{st.Dev, st.Ino}, err
}

// Header returns the header of this run, with the instance it got.
func (f *File) Header() Header { return f.header }

// Path returns the name of the file.
func (f *File) Path() string { return filepath.Join(f.dir.path, stateName) }

// Close waits for a compaction that runs, closes the file and lets go of the
// directory. Calling it again does nothing.
func (f *File) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	f.mu.Unlock()
	f.background.Wait()
	err := f.fd.Close()
	f.dir.close()
	return err
}
