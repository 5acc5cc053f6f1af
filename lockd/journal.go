package lockd

import (
	"errors"
	"time"

	"github.com/dlmlock/dlmlockd/internal/queue"
	"github.com/dlmlock/dlmlockd/state"
)

// journal is the goroutine that writes the state file. What was asked for
// while a write was under way becomes one write.
type journal struct {
	to   Journal
	post func(func()) bool
	tell func(error) // why nothing new can be written, or nil; on the owner goroutine, when it changes

	asked *queue.Queue[appendAction]

	// Only run touches these.
	backlog []state.Change // must be written, could not be yet
	buf     []state.Change
	told    string // what tell was called with last
}

// tendInterval is how often the state file is looked after, whether or not
// anything is to be written: it may have been removed, and what could not be
// written is tried again.
const tendInterval = time.Second

func newJournal(to Journal, post func(func()) bool, tell func(error)) *journal {
	return &journal{to: to, post: post, tell: tell, asked: queue.New[appendAction](0)}
}

func (j *journal) append(a appendAction) { j.asked.Add(a) }

// close has run return after it has written what was asked for.
func (j *journal) close() { j.asked.Close() }

func (j *journal) run() {
	tend := time.NewTicker(tendInterval)
	defer tend.Stop()
	var spare []appendAction
	for {
		b := j.asked.Take(spare)
		if spare = b.Items; len(b.Items) > 0 {
			j.write(b.Items)
		} else if b.Closed {
			return
		}
		wake := j.asked.Wake()
		if len(b.Items) > 0 {
			wake = always
		}
		select {
		case <-tend.C:
			j.tend()
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

// write writes a batch behind the backlog, and tells each how it went.
func (j *journal) write(batch []appendAction) {
	err := j.put(batch)
	if err != nil && len(batch) > 1 {
		// One of them may be what does not fit: let each stand for itself.
		for i := range batch {
			j.write(batch[i : i+1])
		}
		return
	}
	thens := make([]func(error), len(batch))
	for i := range batch {
		if err != nil && batch[i].must && !errors.Is(err, state.ErrRecord) {
			j.backlog = append(j.backlog, batch[i].changes...)
		}
		thens[i] = batch[i].then
		batch[i] = appendAction{}
	}
	tell := j.news()
	j.post(func() {
		tell()
		for _, then := range thens {
			then(err)
		}
	})
}

// put writes a batch with one write.
func (j *journal) put(batch []appendAction) error {
	j.buf = append(j.buf[:0], j.backlog...)
	for i := range batch {
		j.buf = append(j.buf, batch[i].changes...)
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
// it: marks of other locks do. So what is let go of does not wait for what does
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

// tend has the file looked after, and tries to write the backlog.
func (j *journal) tend() {
	j.to.Tend()
	if len(j.backlog) > 0 && j.to.Append(j.backlog) == nil {
		j.backlog = nil
	}
	was := j.told
	if tell := j.news(); j.told != was {
		j.post(tell)
	}
}

// news returns what there is to tell of the file's health, for the owner
// goroutine.
func (j *journal) news() func() {
	err := j.to.Health()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text == j.told {
		return func() {}
	}
	j.told = text
	return func() { j.tell(err) }
}
