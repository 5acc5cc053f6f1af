// Package journal owns the goroutine that writes the state file, and what could
// not be written yet and must be.
//
// It refuses to know what the changes mean, but for which of them may overtake
// others.
//
// Concurrency: the methods may be called from any goroutine and do not block.
// Written and Health are called on the goroutine of Run and must not block.
package journal

import (
	"errors"
	"time"

	"github.com/dlmlock/dlmlockd/internal/queue"
	"github.com/dlmlock/dlmlockd/state"
)

// File is the state file; *state.File is one. One goroutine calls it.
type File interface {
	// Append writes all of the changes or none. What brings a lock to its end
	// has its room from the time that the lock was written down.
	Append([]state.Change) error
	// Health says why nothing new can be written down; nil if it can.
	Health() error
	// Tend looks after the file: its place, its room.
	Tend()
}

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

	asked *queue.Queue[Entry]

	// Only Run touches these.
	backlog []state.Change // must be written, could not be yet
	buf     []state.Change
	told    string // what health was called with last
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

// Add has an entry written.
func (j *Writer) Add(e Entry) { j.asked.Add(e) }

// Ping has fn called behind what was added so far, whether or not anything can be
// written.
func (j *Writer) Ping(fn func()) { j.Add(Entry{ping: fn}) }

// Close has Run return after it has written what was asked for.
func (j *Writer) Close() { j.asked.Close() }

// Run writes until Close.
func (j *Writer) Run() {
	tend := time.NewTicker(tendInterval)
	defer tend.Stop()
	var spare []Entry
	for {
		b := j.asked.Take(spare)
		if spare = b.Items; len(b.Items) > 0 {
			j.Write(b.Items)
		} else if b.Closed {
			return
		}
		wake := j.asked.Wake()
		if len(b.Items) > 0 {
			wake = always
		}
		select {
		case <-tend.C:
			j.Tend()
		case <-wake:
		}
	}
}

// always is a channel that never makes anybody wait.
var always = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// Write writes a batch behind the backlog, and tells each how it went. Run calls
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

// Backlog is what must be written and could not be yet. It is for the goroutine of
// Run.
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
