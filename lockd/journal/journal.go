// Package journal owns the writing of the state file, and what could not be written
// yet and must be.
//
// It refuses to know what the changes mean, but for which of them may overtake
// others.
//
// There is one writer at a time, which takes all that was added. On a file that no
// device can hold up (File, Prompt) that is whichever goroutine calls Work; on any
// other one it is the goroutine of Run, and Work only wakes it. So nobody but that
// goroutine ever waits for a disk.
//
// Concurrency: the methods may be called from any goroutine, and do not block. written
// and health are called on the goroutine that writes, one call after the other, and
// must not block or call the Writer, except for Add.
package journal

import (
	"errors"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/internal/queue"
	"github.com/dlmlock/dlmlockd/state"
)

// File is the state file; *state.File is one. One goroutine at a time calls it.
type File interface {
	// Append writes all of the changes or none. What brings a lock to its end
	// has its room from the time that the lock was written down.
	Append([]state.Change) error
	// Health says why nothing new can be written down; nil if it can.
	Health() error
	// Tend looks after the file: its place, its room.
	Tend()
}

// prompt is a File that knows whether a write can be held up by a device. One that is
// not prompt may stand still.
type prompt interface{ Prompt() bool }

// Entry is what is written together, all or nothing.
type Entry struct {
	ID      uint64
	Changes []state.Change
	// Must has the changes written later if they can't be written now, because
	// they tell what is true whether or not it is written down.
	Must bool

	ping func() // instead of anything else
}

// Writer writes entries. What is added while a write is under way becomes one
// write.
type Writer struct {
	to      File
	written func(ids []uint64, err error)
	health  func(error)
	asked   *queue.Queue[Entry]

	role sync.Mutex // of the writer, who alone touches these:

	backlog []state.Change // must be written, could not be yet
	buf     []state.Change
	spare   []Entry // the array of the batch before last
	told    string  // what health was called with last
}

// tendInterval is how often the state file is looked after, whether or not
// anything is to be written: it may have been removed, and what could not be
// written is tried again.
const tendInterval = time.Second

// New returns a Writer of to. written gets the outcome of entries, in the order in
// which they were added; health gets why nothing new can be written, or nil, when
// that changes.
func New(to File, written func(ids []uint64, err error), health func(error)) *Writer {
	return &Writer{to: to, written: written, health: health, asked: queue.New[Entry](0)}
}

// Add adds an entry, which is written when Work is called next.
func (j *Writer) Add(e Entry) { j.asked.Put(e) }

// Ping adds fn, to be called behind what was added so far, whether or not anything can
// be written. Work has to follow, as with Add.
func (j *Writer) Ping(fn func()) { j.Add(Entry{ping: fn}) }

// Work writes what waits to be written, if no device can hold that up and nobody
// writes already; whoever does takes what is added meanwhile, too. Otherwise Run does
// it. It reports whether anything was written here.
func (j *Writer) Work() (wrote bool) {
	if p, ok := j.to.(prompt); ok && p.Prompt() {
		return j.writeWaiting()
	}
	if !j.asked.Empty() {
		j.Nudge()
	}
	return false
}

// Nudge has Run write what waits to be written.
func (j *Writer) Nudge() { j.asked.Nudge() }

// writeWaiting writes until nothing waits. Whoever adds an entry while the
// role is taken has added it before the role is given back, and so it is seen here.
func (j *Writer) writeWaiting() (wrote bool) {
	for !j.asked.Empty() && j.role.TryLock() {
		j.writeAll()
		j.role.Unlock()
		wrote = true
	}
	return wrote
}

// writeAll writes what was added. The caller has the role.
func (j *Writer) writeAll() {
	batch := j.asked.Take(j.spare).Items
	if j.spare = batch; len(batch) > 0 {
		j.Write(batch)
	}
}

// Close has Run return after it has written what was asked for.
func (j *Writer) Close() { j.asked.Close() }

// Run writes what Work leaves to it, and looks after the file, until Close. It calls
// after each time, without the writer's role.
func (j *Writer) Run(after func()) {
	tend := time.NewTicker(tendInterval)
	defer tend.Stop()
	for !j.asked.Closed() {
		select {
		case <-tend.C:
			j.look()
		case <-j.asked.Wake():
			j.writeWaiting()
		}
		after()
	}
	j.role.Lock()
	defer j.role.Unlock()
	j.writeAll()
}

// look tends the file. If somebody writes, the next second will do.
func (j *Writer) look() {
	if j.role.TryLock() {
		j.writeAll()
		j.Tend()
		j.role.Unlock()
	}
	j.writeWaiting()
}

// Write writes a batch behind the backlog, and tells each how it went. The writer calls
// it; tests may do so instead.
func (j *Writer) Write(batch []Entry) {
	err := j.put(batch)
	if err != nil && len(batch) > 1 {
		// One of them may be what does not fit: let each stand for itself.
		for i := range batch {
			j.Write(batch[i : i+1])
		}
		return
	}
	ids := make([]uint64, 0, len(batch))
	j.news()
	for i, e := range batch {
		switch {
		case e.ping != nil:
			e.ping()
		case err != nil && e.Must && !errors.Is(err, state.ErrRecord):
			j.backlog = append(j.backlog, e.Changes...)
			fallthrough
		default:
			ids = append(ids, e.ID)
		}
		batch[i] = Entry{}
	}
	if len(ids) > 0 {
		j.written(ids, err)
	}
}

// put writes a batch with one write.
func (j *Writer) put(batch []Entry) error {
	j.buf = append(j.buf[:0], j.backlog...)
	for i := range batch {
		j.buf = append(j.buf, batch[i].Changes...)
	}
	defer func() { clear(j.buf) }()
	err := j.to.Append(j.buf)
	if err == nil {
		j.backlog = nil
		return nil
	}
	if alone := j.buf[len(j.backlog):]; len(j.backlog) > 0 && len(batch) == 1 && overtakes(alone, j.backlog) {
		return j.to.Append(alone)
	}
	return err
}

// overtakes reports whether changes mean the same before the backlog as behind
// it: marks of other locks do. So a release does not wait for what does
// not fit.
func overtakes(changes, backlog []state.Change) bool {
	ids := map[uint64]bool{}
	for _, c := range backlog {
		switch c := c.(type) {
		case state.Lock:
			ids[c.ID] = true
		case state.Mark:
			ids[c.ID] = true
		}
	}
	for _, c := range changes {
		if m, ok := c.(state.Mark); !ok || ids[m.ID] {
			return false
		}
	}
	return true
}

// Tend has the file looked after, and tries to write the backlog.
func (j *Writer) Tend() {
	j.to.Tend()
	if len(j.backlog) > 0 && j.to.Append(j.backlog) == nil {
		j.backlog = nil
	}
	j.news()
}

// Backlog is what must be written and could not be yet. It is for the writer.
func (j *Writer) Backlog() []state.Change { return j.backlog }

// news tells when the file's health has changed.
func (j *Writer) news() {
	err := j.to.Health()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != j.told {
		j.told = text
		j.health(err)
	}
}
