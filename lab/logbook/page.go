package logbook

import (
	"encoding/binary"
	"strings"
	"sync/atomic"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Page has what one client has done in a slice, and what the test wants of it.
type Page struct {
	logbook *Logbook
	words   []uint64
}

// The words at the head of a page.
const (
	orderWord = iota // written by the test: the number of the order, and the order
	obeyedWord
	countWord // of entries
	seedWord
	cutWord // how often the connection was to be cut
)

// Order is what the test wants of a client.
type Order uint64

// The orders. A client obeys between two calls.
const (
	Work   Order = iota + 1
	Pause        // make no call
	Finish       // release everything, then make no call
)

const orderBits = 8

// Give gives an order. Obeyed reports whether the client follows it.
func (p *Page) Give(o Order) {
	number := atomic.LoadUint64(&p.words[orderWord])>>orderBits + 1
	atomic.StoreUint64(&p.words[orderWord], number<<orderBits|uint64(o))
}

// Obeyed reports whether the client follows the last order.
func (p *Page) Obeyed() bool {
	return atomic.LoadUint64(&p.words[obeyedWord]) == atomic.LoadUint64(&p.words[orderWord])
}

// Order returns the order and a function that confirms it; nil: it was confirmed
// already.
func (p *Page) Order() (o Order, obey func()) {
	word := atomic.LoadUint64(&p.words[orderWord])
	if atomic.LoadUint64(&p.words[obeyedWord]) != word {
		obey = func() { atomic.StoreUint64(&p.words[obeyedWord], word) }
	}
	return Order(word & (1<<orderBits - 1)), obey
}

// Reset clears a page, for a client that follows Finish.
func (p *Page) Reset(seed uint64) {
	atomic.StoreUint64(&p.words[countWord], 0)
	atomic.StoreUint64(&p.words[seedWord], seed)
}

// Seed returns the seed of the client's random numbers.
func (p *Page) Seed() uint64 { return atomic.LoadUint64(&p.words[seedWord]) }

// Cut makes the client end its connection, even in the middle of a call.
func (p *Page) Cut() { atomic.AddUint64(&p.words[cutWord], 1) }

// Cuts returns how often Cut was called.
func (p *Page) Cuts() uint64 { return atomic.LoadUint64(&p.words[cutWord]) }

// Op is the kind of a call.
type Op uint8

// The calls, and End: something that the client had has ended without a call, at
// the time of the entry or later.
const (
	Acquire Op = iota + 1
	Convert
	Release
	End
)

// Outcome is how a call has ended.
type Outcome uint8

// The outcomes.
const (
	Unanswered Outcome = iota // or the answer does not say what happened
	Done                      // including a release of what is not held
	Refused                   // certainly nothing was done
)

// Entry is one line of a page.
type Entry struct {
	Op       Op
	Outcome  Outcome
	Resource int
	Mode     dlm.Mode
	More     bool // of the same call as the entry before
	// Kept, of an End: the service may still have something for the client, which
	// has to release it.
	Kept bool
	Call uint64
	// Return is when the call had certainly ended; 0: it may take effect at any
	// later time.
	Return uint64
	Token  uint64
	Why    string // the first letters of the kind of the error
}

// Full reports whether there is only room to release what the client has, perhaps
// after many attempts.
func (p *Page) Full() bool { return p.Len() > MaxEntries-1024 }

// Len is the number of entries.
func (p *Page) Len() int { return int(atomic.LoadUint64(&p.words[countWord])) }

func (p *Page) entry(i int) []uint64 { return p.words[headSize+i*entrySize:][:entrySize] }

// Begin writes an entry and returns its place. The entry gets the present time, unless it
// has one.
func (p *Page) Begin(e Entry) int {
	i := p.Len()
	w := p.entry(i)
	if e.Call == 0 {
		e.Call = p.logbook.Now()
	}
	atomic.StoreUint64(&w[0], e.Call)
	atomic.StoreUint64(&w[1], 0)
	atomic.StoreUint64(&w[2], 0)
	atomic.StoreUint64(&w[3], e.pack())
	atomic.StoreUint64(&p.words[countWord], uint64(i)+1)
	return i
}

// Finish records how a call has ended, with its token or the kind of its error.
func (p *Page) Finish(i int, o Outcome, token uint64, why string) {
	e := p.Entry(i)
	e.Outcome = o
	if token == 0 {
		var text [8]byte
		copy(text[:], why)
		token = binary.LittleEndian.Uint64(text[:])
	}
	w := p.entry(i)
	atomic.StoreUint64(&w[2], token)
	// If the process is killed here, the call has no end, which is true.
	atomic.StoreUint64(&w[3], e.pack())
	if o != Unanswered {
		p.Close(i)
	}
}

// Close records that the call has no effect from now on.
func (p *Page) Close(i int) { atomic.StoreUint64(&p.entry(i)[1], p.logbook.Now()) }

// Entry reads an entry.
func (p *Page) Entry(i int) Entry {
	w := p.entry(i)
	e := unpack(atomic.LoadUint64(&w[3]))
	e.Call, e.Return = atomic.LoadUint64(&w[0]), atomic.LoadUint64(&w[1])
	if e.Return == 0 && e.Op != End {
		e.Outcome = Unanswered
	}
	if e.Outcome == Done {
		e.Token = atomic.LoadUint64(&w[2])
	} else {
		text := binary.LittleEndian.AppendUint64(nil, atomic.LoadUint64(&w[2]))
		e.Why = strings.TrimRight(string(text), "\x00")
	}
	return e
}

func (e Entry) pack() uint64 {
	w := uint64(e.Resource)<<32 | uint64(e.Op)<<24 | uint64(e.Outcome)<<16 | uint64(e.Mode+1)<<8
	if e.More {
		w |= 1
	}
	if e.Kept {
		w |= 2
	}
	return w
}

func unpack(w uint64) Entry {
	return Entry{Op: Op(w >> 24), Outcome: Outcome(w >> 16), Resource: int(w >> 32), Mode: dlm.Mode(w>>8&0xff) - 1,
		More: w&1 != 0, Kept: w&2 != 0}
}

// Holding is what a client may have, by its page.
type Holding struct {
	Held  map[int]dlm.Mode // by resource
	Since map[int]uint64   // when it was asked for, where it is held
	// Open has the places of entries that may still take effect, by resource. A
	// release that is done ends them: the service carries out the calls of an owner
	// in their order, and a daemon that was killed carries out nothing.
	Open map[int][]int
	// Lost is what has ended, and is to be released before anything else.
	Lost map[int]bool
}

// NewHolding returns the Holding of a page without entries.
func NewHolding() *Holding {
	return &Holding{map[int]dlm.Mode{}, map[int]uint64{}, map[int][]int{}, map[int]bool{}}
}

// Holding reads the whole page.
func (p *Page) Holding() *Holding {
	h := NewHolding()
	for i := range p.Len() {
		h.Add(i, p.Entry(i))
	}
	return h
}

// Add adds one entry that has ended. It returns the places of the entries that end with it.
func (h *Holding) Add(i int, e Entry) (ends []int) {
	name := e.Resource
	if (e.Op == End || e.Outcome == Unanswered) && e.Return == 0 {
		h.Open[name] = append(h.Open[name], i)
	}
	switch {
	case e.Op == End:
		delete(h.Held, name)
		delete(h.Since, name)
		if e.Kept {
			h.Lost[name] = true
		}
	case e.Op == Release && e.Outcome == Done:
		ends = h.Open[name]
		delete(h.Held, name)
		delete(h.Since, name)
		delete(h.Open, name)
		delete(h.Lost, name)
	case e.Op != Release && e.Outcome != Refused:
		h.Held[name] = e.Mode
		if e.Op == Acquire {
			h.Since[name] = e.Call
		}
	}
	return ends
}
