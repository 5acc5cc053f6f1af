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
	"sync/atomic"
	"time"
)

// Header is the top of the file. It says which run of which node the records belong to.
type Header struct {
	Format   int    // version of the schema
	BootID   string // /proc/sys/kernel/random/boot_id: locks end with the boot
	NodeID   uint32 // the cluster's number for this node
	Cluster  string // the cluster's name; "" if there is no cluster
	Engine   string // what --engine calls it
	Instance string // names this state directory in anchor locks; as old as the file
	Created  time.Time
}

// Contents is what a file says as a whole: marks are applied, and what is Gone or Left is dropped.
type Contents struct {
	Header Header      // as found; zero if there was no file or both headers were damaged
	Locks  []Lock      // in order of ID
	Spaces []Lockspace // sorted by name
	// NextID is larger than every ID that was ever in the file. After damage it skips damageSkip
	// numbers, because the damage may have hidden some.
	NextID uint64
	// Torn says that the last record was unfinished and was dropped. It comes from a crash in the
	// middle of a write, whose success was never reported.
	Torn        bool
	Quarantined string   // name of the copy of a damaged file; "" if the file was sound
	Damage      []Damage // the pieces that can't be used, in order of Offset
}

// Damage is a piece of the file that can't be used.
type Damage struct {
	Offset, Length int64 // bytes
	Reason         string
}

// Options describe the run for which the file is opened.
type Options struct {
	// Header is that of this run. BootID and Engine must be set. Format is ignored. Created is kept
	// if the file has one; a new file gets this one, or the current time if it is zero. An empty
	// Instance keeps the file's, or makes a new random one.
	Header Header
	// CompactMin is the size in bytes below which a file is never compacted. 0 stands for 1 MiB.
	CompactMin int64
	Log        *slog.Logger     // nil: slog.Default()
	Now        func() time.Time // nil: time.Now
}

// File is the open state file. It holds the lock of its directory.
type File struct {
	dir *directory
	log *slog.Logger
	// See Options.CompactMin.
	compactMin int64
	header     Header
	background sync.WaitGroup // waits for the compaction that runs, if any
	prompt     atomic.Bool    // what Prompt says

	mu sync.Mutex // guards the rest
	image
	// What the file says, in memory. If somebody destroys the file, it is written again
	// from here.
	mirror *mirror
	// How much of the file is still of use, from which it is seen whether a compaction is
	// worth it.
	use   usage
	buf   []byte // of the last Append, for the next one
	sizes []int  // the size of each change in buf
	// A compaction runs: it copies what the file had when it began, while Append goes on.
	compacting bool
	retryAt    int64 // after a failed compaction: no new one below this size
	shortage
	tampering
	epoch int64 // the last epoch that NoteEpoch was given or Epoch has found
	// Nothing is written any more.
	closed bool
}

// image is the file as it is on disk: records from the beginning, then padding up to the end, over
// which the next records are written. An Append that fits into the padding needs no room of the file
// system, so it can't fail for want of it.
type image struct {
	path    string // for errors
	fd      *os.File
	id      fileID
	size    int64 // where the next record goes
	alloc   int64 // where the padding, and so the file, ends
	dirtyTo int64 // up to here there may be the remains of a failed write in place of padding
	// written is when this package last wrote to the file. A later modification is somebody else's.
	written time.Time
	spare   *os.File // takes the place of a new file where there is no room for one; nil if it could not be made
}

// shortage is why nothing new can be recorded, and what it would take.
type shortage struct {
	sick error // nil: everything can be recorded
	// refused is how much room, in bytes, the fresh change needed that was refused last. Until there
	// is as much, nothing new can be recorded: room for nothing at all is not enough to say so.
	refused int64
	triedAt time.Time // when the file was last tried to grow
}

// tampering is what somebody else has done to the file or its name.
type tampering struct {
	astray  bool // the file has lost its name, and the log says so
	suspect bool // somebody else has modified the file, and it has yet to be checked
	// damaged says that somebody has cut the file short or edited it, that the log says so, and
	// that the file has not been written again yet.
	damaged    bool
	repairedAt time.Time // when writing it again was last tried
	repairErr  error     // why that failed
}

// maxKeptBuffer is the largest buffer, in bytes, that Append keeps for the next call.
const maxKeptBuffer = 1 << 20

// Open takes over the directory dir, creates it if it is missing, loads the file and leaves a sound
// one for this run. Contents are what it found:
//
//   - With the boot id of this run, these are the records to go on with.
//   - With another boot id, or with none because both headers were damaged, they
//     are history: the new file holds none of them. The old file is kept as
//     state.toml.previous-boot, or quarantined.
//
// The error is an *Error, or a *WriteError if a new file could not be written. After an error the
// file is as it was.
func Open(dir string, o Options) (*File, Contents, error) {
	if o.Header.BootID == "" || o.Header.Engine == "" {
		return nil, Contents{}, &Error{Op: "open", Path: dir,
			Err: fmt.Errorf("%w: a header without boot id or engine", ErrRecord)}
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
	f := &File{dir: d, log: o.Log, compactMin: o.CompactMin, image: image{path: filepath.Join(d.path, stateName)}}
	f.prompt.Store(d.inMemory())
	c, err := f.start(o)
	if err != nil {
		f.closed = true
		f.closeFiles()
		return nil, Contents{}, err
	}
	return f, c, nil
}

// start loads the file that is there, if any, and makes it the file of this run.
func (f *File) start(o Options) (Contents, error) {
	f.dir.remove(temporaryName)
	f.openSpare()
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
			return Contents{}, writeError("quarantine", f.Path(), err)
		}
		f.log.Error(msgDamagedFileKept.String(), "path", filepath.Join(f.dir.path, l.Quarantined))
	case f.fd == nil:
	case !sameBoot:
		if err := f.dir.setAside(previousBootName); err != nil {
			return Contents{}, writeError("set aside", f.Path(), err)
		}
	case l.Header == f.header:
		return l.Contents, f.goOnWith(l)
	}
	keep := Contents{NextID: l.NextID}
	if sameBoot {
		keep = l.Contents
	}
	f.mirror = newMirror(&keep, nil)
	if err := f.replace(&keep); err != nil {
		return Contents{}, err
	}
	f.sick = f.tend()
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
	l, err := load(fd, info.Size(), true)
	if err != nil {
		return nil, &Error{Op: "load", Path: f.Path(), Err: err}
	}
	return l, nil
}

// refuse returns an error if the file that was read must not be used by this run.
func (f *File) refuse(l *loaded) error {
	if l.foreign != 0 {
		return &Error{Op: "load", Path: f.Path(), Err: fmt.Errorf("%w: %d", ErrFormat, l.foreign),
			Advice: "a newer dlmlockd wrote it: run that one, or release its locks and remove the file"}
	}
	if l.Header.BootID == f.header.BootID && l.Header.Engine != f.header.Engine && len(l.Locks)+len(l.Spaces) > 0 {
		return &Error{Op: "load", Path: f.Path(),
			Err: fmt.Errorf("%w: %q, not %q", ErrEngine, l.Header.Engine, f.header.Engine),
			Advice: fmt.Sprintf("start dlmlockd with --engine=%s, release the locks and leave the lockspaces; then "+
				"change the engine", l.Header.Engine)}
	}
	return nil
}

// goOnWith keeps the file as it is, without an unfinished record. The service starts even if the
// file can't get its padding; Health reports that.
func (f *File) goOnWith(l *loaded) error {
	f.size, f.alloc, f.use, f.mirror = l.end, l.size, l.use, newMirror(&l.Contents, l.packed)
	if l.Torn {
		f.dirtyTo = l.size
		if err := f.clean(); err != nil {
			return err
		}
	}
	id, err := identify(f.fd)
	if err != nil {
		return &Error{Op: "check", Path: f.Path(), Err: err}
	}
	f.id, f.written = id, time.Now()
	f.sick = f.tend()
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

// report logs what was found in the file, and what could not be used.
func report(log *slog.Logger, path string, l *loaded) {
	if l.Torn {
		log.Warn(fmt.Sprintf("dropped the unfinished last record of %s, %d bytes: its success was never reported", path,
			l.text-l.end))
	}
	for i, d := range l.Damage {
		if i == maxReported {
			log.Error(fmt.Sprintf("%s: %d more pieces are damaged", path, len(l.Damage)-i))
			return
		}
		log.Error(fmt.Sprintf("%s: %d bytes at offset %d can't be used: %s", path, d.Length, d.Offset, d.Reason))
	}
}

// Append writes changes, in their order, with one write. It writes all of them or none: after a
// *WriteError none of them is in the file, and the same call may be made again. An error that wraps
// ErrRecord is a mistake in changes. A crash in the middle may leave the first few of them.
//
// A change that adds a lock or lockspace is refused unless the file has, or can get, room for all
// the records that bring it to its end. So those can be written even when the file system is full.
func (f *File) Append(changes []Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return writeError("append", f.Path(), os.ErrClosed)
	}
	// This comes before encode, because it may write the file again from the mirror, which must not
	// contain these changes before they are written.
	place := f.inPlace()
	b, fresh, err := f.encode(changes)
	if err != nil {
		f.mirror.rollback()
		return err
	}
	short, err := f.ready(place, int64(len(b)), fresh)
	if err == nil {
		err = f.put(b)
	}
	if err != nil {
		if fresh {
			f.refused = min(int64(len(b))+f.mirror.need-f.mirror.needBefore, maxRefused)
		}
		f.mirror.rollback()
		f.sick = err
		return err
	}
	f.mirror.commit()
	if f.sick = short; short == nil {
		f.refused = 0
	}
	f.size += int64(len(b))
	f.alloc = max(f.alloc, f.size)
	for i, c := range changes {
		f.use.add(c, f.sizes[i])
	}
	f.compactIfWorth()
	return nil
}

// maxRefused bounds File.refused: a change that adds very many locks may not fit where one that adds
// a single lock does.
const maxRefused = 4 << 10

// encode writes changes into the buffer and adds them to the mirror.
func (f *File) encode(changes []Change) (b []byte, fresh bool, err error) {
	b, f.sizes = f.buf[:0], f.sizes[:0]
	for _, c := range changes {
		if err := validate(c); err != nil {
			return nil, false, err
		}
		start := len(b)
		b = appendChange(b, c)
		f.sizes = append(f.sizes, len(b)-start)
		fresh = f.mirror.add(c, len(b)-start) || fresh
	}
	if cap(b) <= maxKeptBuffer {
		f.buf = b
	}
	return b, fresh, nil
}

// Prompt reports whether Append waits for no device: the directory is on a tmpfs, as /run is. On any
// other file system it may take as long as a disk or a server does, and may never return.
func (f *File) Prompt() bool { return f.prompt.Load() }

// Header returns the header of this run, with the instance it got.
func (f *File) Header() Header { return f.header }

// Path returns the name of the file.
func (f *File) Path() string { return f.path }

// Close waits for a compaction that is running, closes the file and releases the directory. Calling
// it again does nothing.
func (f *File) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	f.mu.Unlock()
	f.background.Wait()
	return f.closeFiles()
}

func (f *File) closeFiles() (err error) {
	if f.fd != nil {
		err = f.fd.Close()
	}
	if f.spare != nil {
		f.spare.Close()
	}
	f.dir.close()
	return err
}
