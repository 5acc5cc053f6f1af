package dlmtest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Events records the events of a dlm.Sink. Methods that wait take the first matching event that was
// not taken before, no matter what came in between, and end the test if none comes in time.
type Events struct {
	wait time.Duration

	mu    sync.Mutex
	all   []dlm.Event
	open  []dlm.Event   // not yet taken
	added chan struct{} // closed and replaced with every event
}

// NewEvents returns an empty recorder whose methods wait for at most the given time.
func NewEvents(wait time.Duration) *Events {
	return &Events{wait: wait, added: make(chan struct{})}
}

// Sink records an event. It is a dlm.Sink.
func (e *Events) Sink(ev dlm.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
	e.open = append(e.open, ev)
	close(e.added)
	e.added = make(chan struct{})
}

// Completed takes the end of the operation of lock c that is under way.
func (e *Events) Completed(t testing.TB, c dlm.Cookie) dlm.Event {
	t.Helper()
	return e.Wait(t, dlm.Completed, c)
}

// Blocking takes a blocking notification of lock c.
func (e *Events) Blocking(t testing.TB, c dlm.Cookie) dlm.Event {
	t.Helper()
	return e.Wait(t, dlm.Blocking, c)
}

// Wait takes the next event of a kind and cookie.
func (e *Events) Wait(t testing.TB, kind dlm.EventKind, c dlm.Cookie) dlm.Event {
	t.Helper()
	timeout := time.NewTimer(e.wait)
	defer timeout.Stop()
	for {
		ev, added, ok := e.take(kind, c)
		if ok {
			return ev
		}
		select {
		case <-added:
		case <-timeout.C:
			t.Fatalf("no %v event of cookie %d within %v; the events of that cookie:\n%s", kind, c, e.wait,
				e.describe(c))
		}
	}
}

func (e *Events) take(kind dlm.EventKind, c dlm.Cookie) (ev dlm.Event, added <-chan struct{}, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.IndexFunc(e.open, func(ev dlm.Event) bool { return ev.Kind == kind && ev.Cookie == c })
	if i < 0 {
		return dlm.Event{}, e.added, false
	}
	ev = e.open[i]
	e.open = slices.Delete(e.open, i, i+1)
	return ev, nil, true
}

// Untaken returns the events of lock c that have not been taken yet, in order.
func (e *Events) Untaken(c dlm.Cookie) []dlm.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return of(e.open, c)
}

// All returns every event so far, in order.
func (e *Events) All() []dlm.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.all)
}

func (e *Events) describe(c dlm.Cookie) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var b strings.Builder
	for _, ev := range of(e.all, c) {
		fmt.Fprintf(&b, "\t%v %v %v lockid %d mode %v\n", ev.Kind, ev.Op, ev.Status, ev.LockID, ev.Mode)
	}
	return b.String()
}

func of(events []dlm.Event, c dlm.Cookie) []dlm.Event {
	var found []dlm.Event
	for _, ev := range events {
		if ev.Cookie == c {
			found = append(found, ev)
		}
	}
	return found
}
