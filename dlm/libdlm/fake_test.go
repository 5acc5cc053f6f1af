package libdlm

import (
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// script is a device without behaviour of its own: the test sees each call, and decides what it
// returns, which results come, and when. It is not a lock manager; the behaviour of a real one is
// tested on real nodes.
type script struct {
	t       testing.TB
	calls   chan *asked
	results chan result
	stop    chan struct{}
	once    sync.Once
	closed  chan struct{}
	door    door
}

// door is a gate that the test closes and opens.
type door struct {
	shut, gone, changed atomic.Bool
	masterless          atomic.Pointer[map[string]bool]
	looks               atomic.Int32
}

func (d *door) Stopped() bool { return d.shut.Load() }

// recovers ends a recovery that has left these resources without a master.
func (d *door) recovers(masterless ...string) {
	names := make(map[string]bool)
	for _, name := range masterless {
		names[name] = true
	}
	d.masterless.Store(&names)
	d.changed.Store(true)
}

func (d *door) Changed() bool { return d.changed.Swap(false) }

func (d *door) Masterless() (map[string]bool, error) {
	d.looks.Add(1)
	if m := d.masterless.Load(); m != nil {
		return *m, nil
	}
	return nil, os.ErrNotExist
}

func (d *door) Close() error {
	d.gone.Store(true)
	return nil
}

// asked is a call that waits for its answer.
type asked struct {
	what     string
	cookie   dlm.Cookie
	id       dlm.LockID
	resource string
	mode     dlm.Mode
	flags    dlm.Flags
	value    dlm.Value
	answer   chan answer
}

type answer struct {
	id  dlm.LockID
	err error
}

func newScript(t testing.TB) *script {
	return &script{t: t, calls: make(chan *asked), results: make(chan result), stop: make(chan struct{}),
		closed: make(chan struct{})}
}

func (s *script) ask(a asked) (dlm.LockID, error) {
	a.answer = make(chan answer)
	s.calls <- &a
	r := <-a.answer
	return r.id, r.err
}

// noCall fails if a call waits for its answer.
func (s *script) noCall() {
	select {
	case a := <-s.calls:
		s.t.Errorf("%s of lockid %d", a.what, a.id)
		a.returns(0, nil)
	default:
	}
}

func (s *script) request(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) (dlm.LockID, error) {
	return s.ask(asked{what: "request", cookie: c, resource: resource, mode: m, flags: f})
}

func (s *script) adopt(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) (dlm.LockID, error) {
	return s.ask(asked{what: "adopt", cookie: c, resource: resource, mode: m, flags: f})
}

func (s *script) convert(c dlm.Cookie, id dlm.LockID, m dlm.Mode, f dlm.Flags, v *dlm.Value) error {
	_, err := s.ask(asked{what: "convert", cookie: c, id: id, mode: m, flags: f, value: *v})
	return err
}

func (s *script) unlock(c dlm.Cookie, id dlm.LockID) error {
	_, err := s.ask(asked{what: "unlock", cookie: c, id: id})
	return err
}

func (s *script) cancel(c dlm.Cookie, id dlm.LockID) error {
	_, err := s.ask(asked{what: "cancel", cookie: c, id: id})
	return err
}

func (s *script) purge(uint32) error {
	_, err := s.ask(asked{what: "purge"})
	return err
}

func (s *script) read(r *result) error {
	select {
	case *r = <-s.results:
		return nil
	case <-s.stop:
		return os.ErrClosed
	}
}

func (s *script) interrupt() { s.once.Do(func() { close(s.stop) }) }

func (s *script) close() error {
	s.interrupt()
	close(s.closed)
	return nil
}

// next returns the next call, which must be of that kind.
func (s *script) next(what string) *asked {
	s.t.Helper()
	a := <-s.calls
	require.Equal(s.t, what, a.what)
	return a
}

// returns lets a call return.
func (a *asked) returns(id dlm.LockID, err error) { a.answer <- answer{id, err} }

// result makes the kernel report.
func (s *script) result(r result) { s.results <- r }

// events collects the events of a sink.
type events struct {
	mu  sync.Mutex
	all []dlm.Event
}

func (e *events) sink(ev dlm.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, ev)
}

// take returns what has come since the last take.
func (e *events) take() []dlm.Event {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := e.all
	e.all = nil
	return all
}

var quiet = slog.New(slog.DiscardHandler)

// open returns a lockspace on a script.
func open(t testing.TB) (*lockspace, *script, *events) {
	d, ev := newScript(t), &events{}
	return newLockspace("foo", 1, d, &d.door, ev.sink, quiet, func(*lockspace) {}), d, ev
}
