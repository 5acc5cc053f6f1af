package main

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/dlmlock/dlmlockd/internal/queue"
)

const (
	// outletPatience is how long whoever logs waits for its line to be written. It waits at all so that
	// the lines before a crash are not lost.
	outletPatience = 100 * time.Millisecond
	// outletFlush is how long the program waits for the last lines when it ends.
	outletFlush = 2 * time.Second
	// outletRoom is how many lines wait for a journal or a pipe that takes none. Thousands of locks that
	// are released at once make a line each, also while the journal only pauses for a moment.
	outletRoom = 10_000
)

// outlet writes the log on a goroutine of its own. A journald that hangs (on the disk of its files, for
// example) or a pipe that nobody reads takes no line for as long as that lasts, and every goroutine that
// logs would hang with it: a call of libvirt, a reload, the end of the service. Whoever logs waits for
// a moment only; while earlier lines are overdue, it does not wait at all. If too many lines wait, further
// ones are dropped and counted.
type outlet struct {
	lines *queue.Queue[outletLine]
	stuck atomic.Bool // lines wait longer than outletPatience
	// dropped is called, where the lines are written, when n lines did not fit. It does not log through
	// the outlet.
	dropped func(n int)
	ended   chan struct{} // closed when the last line is written
}

// outletLine is a line to be written. done is closed then.
type outletLine struct {
	write func()
	done  chan struct{}
}

// newOutlet makes an outlet, which works until it is flushed.
func newOutlet() *outlet {
	o := &outlet{lines: queue.New[outletLine](outletRoom), ended: make(chan struct{})}
	go o.run()
	return o
}

// do has a line written.
func (o *outlet) do(write func()) {
	l := outletLine{write, make(chan struct{})}
	if o.lines.Add(l) && !o.stuck.Load() && !closedWithin(l.done, outletPatience) {
		o.stuck.Store(true)
	}
}

// flush waits for the lines that were logged before, but not forever. Lines that are logged later are
// dropped: the program ends.
func (o *outlet) flush() {
	o.lines.Close()
	closedWithin(o.ended, outletFlush)
}

func closedWithin(done <-chan struct{}, most time.Duration) bool {
	late := time.NewTimer(most)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

func (o *outlet) run() {
	defer close(o.ended)
	for {
		b := o.lines.Take(nil)
		for _, l := range b.Items {
			l.write()
			close(l.done)
		}
		if b.Dropped > 0 {
			o.dropped(b.Dropped)
		}
		switch {
		case len(b.Items) > 0:
		case b.Closed:
			return
		default:
			o.stuck.Store(false)
			<-o.lines.Wake()
		}
	}
}

// writer returns what writes to w through the outlet. An error of w is lost: there is nowhere to
// report that logging has failed.
func (o *outlet) writer(w io.Writer) io.Writer { return outletWriter{o, w} }

type outletWriter struct {
	outlet *outlet
	to     io.Writer
}

func (w outletWriter) Write(b []byte) (int, error) {
	line := append([]byte(nil), b...) // the caller uses b again
	w.outlet.do(func() { _, _ = w.to.Write(line) })
	return len(b), nil
}

// sender returns what sends to the journal through the outlet.
func (o *outlet) sender(send journalSend) journalSend {
	return func(message string, priority journal.Priority, fields map[string]string) error {
		o.do(func() { _ = send(message, priority, fields) })
		return nil
	}
}
