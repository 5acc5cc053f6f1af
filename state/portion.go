package state

import "runtime"

// A large file is read on several processors: the loader cuts the text into portions of whole chunks,
// workers decode them, and the loader folds the records in the order in which they stand. A chunk
// that is not simply one sound record, a header for example or damage, is left to the loader
// (loader.chunk), which then finds it as if there were no workers.

// portionSize is how many bytes of text a portion has, about.
const portionSize = 128 << 10

// portion is a part of the file, and what a worker has made of it.
type portion struct {
	text   []byte
	offset int64 // of the text in the file
	pieces []piece
	locks  []decodedLock
	marks  []Mark
	spaces []Lockspace
	done   chan struct{} // has room for the worker's one answer
}

// piece is a chunk of the text. Its kind is 0 for one that the loader has to look at.
type piece struct {
	size int
	kind recordKind
}

type decodedLock struct {
	Lock
	packed
}

// decode does a worker's part.
func (b *portion) decode(d *decoder) {
	text, r := b.text, decoded{}
	for i := range b.pieces {
		p := &b.pieces[i]
		chunk := text[:p.size]
		text = text[p.size:]
		if b.offset == 0 && i == 0 || chunk[0] != '\n' || !sealed(chunk[1:]) {
			continue
		}
		p.kind = d.verified(chunk[1:], &r)
		switch p.kind {
		case lockRecord:
			b.locks = append(b.locks, decodedLock{r.lock, r.packed})
		case markRecord:
			b.marks = append(b.marks, r.mark)
		case spaceRecord:
			b.spaces = append(b.spaces, r.space)
		}
	}
}

// empty makes a portion ready for other text. What the loader has folded it has copied.
func (b *portion) empty() {
	clear(b.locks)
	clear(b.marks)
	b.text, b.pieces, b.locks, b.marks, b.spaces = b.text[:0], b.pieces[:0], b.locks[:0], b.marks[:0], b.spaces[:0]
}

// workers decode portions for one loader.
type workers struct {
	in    chan *portion
	queue []*portion // under way, the oldest first
	spare []*portion
	alone *decoder // in place of workers
}

// newWorkers starts workers for a file of some size, as many as there are processors. A small file, and
// one that is read while the service works, is decoded by the loader itself.
func newWorkers(size int64, wanted bool) *workers {
	n := min(runtime.GOMAXPROCS(0), int(size/portionSize))
	if !wanted || n < 2 {
		return &workers{alone: &decoder{}}
	}
	w := &workers{in: make(chan *portion, 2*n)}
	for range n {
		go func() {
			var d decoder
			for b := range w.in {
				b.decode(&d)
				b.done <- struct{}{}
			}
		}()
	}
	return w
}

// get returns an empty portion.
func (w *workers) get() *portion {
	if n := len(w.spare); n > 0 {
		b := w.spare[n-1]
		w.spare = w.spare[:n-1]
		return b
	}
	return &portion{done: make(chan struct{}, 1)}
}

// put has a portion decoded.
func (w *workers) put(b *portion) {
	if w.alone != nil {
		b.decode(w.alone)
		b.done <- struct{}{}
	} else {
		w.in <- b
	}
	w.queue = append(w.queue, b)
}

// next waits for the oldest portion; nil: there is none, or there may be more under way.
func (w *workers) next(all bool) *portion {
	if len(w.queue) == 0 || !all && len(w.queue) < cap(w.in) {
		return nil
	}
	b := w.queue[0]
	w.queue = append(w.queue[:0], w.queue[1:]...)
	<-b.done
	return b
}

// free takes a portion back that was folded.
func (w *workers) free(b *portion) {
	b.empty()
	w.spare = append(w.spare, b)
}

// stop ends the workers.
func (w *workers) stop() {
	if w.in != nil {
		close(w.in)
	}
}
