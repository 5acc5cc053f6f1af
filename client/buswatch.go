package client

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

func (b *bus) watch(ctx context.Context) (<-chan Event, error) { return b.listen(ctx, false) }

// watchOwners watches all locks: the bus selects signals only by their sender and path.
func (b *bus) watchOwners(ctx context.Context, _ owners, _ *atomic.Bool) (<-chan Event, error) {
	return b.listen(ctx, false)
}

// listen watches the signals, and also sends the ends of Requests if asked to.
func (b *bus) listen(ctx context.Context, requests bool) (<-chan Event, error) {
	matches := [][]godbus.MatchOption{
		{godbus.WithMatchSender(Name), godbus.WithMatchPathNamespace(Path)},
		{godbus.WithMatchSender("org.freedesktop.DBus"), godbus.WithMatchInterface("org.freedesktop.DBus"),
			godbus.WithMatchMember("NameOwnerChanged"), godbus.WithMatchArg(0, Name)},
	}
	// The sequential handler (busOptions) keeps the order and waits for a slow reader.
	signals := make(chan *godbus.Signal, 64)
	b.conn.Signal(signals)
	unwatch := func() {
		b.conn.RemoveSignal(signals)
		for _, m := range matches {
			_ = b.conn.RemoveMatchSignal(m...) // fails only where the bus is gone
		}
	}
	w := watcher{out: make(chan Event), requests: requests}
	var err error
	for _, m := range matches {
		err = errors.Join(err, b.conn.AddMatchSignalContext(ctx, m...))
	}
	if err == nil {
		// After the match, so that no change of the owner is missed.
		err = b.conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.GetNameOwner", 0, Name).Store(&w.owner)
	}
	if err = wrap("Watch", err); err != nil && !errors.Is(err, NotRunning) {
		unwatch()
		return nil, err
	}
	go func() {
		defer close(w.out)
		defer unwatch()
		w.run(ctx, signals)
	}()
	return w.out, nil
}

// watcher turns signals into events.
type watcher struct {
	out      chan Event
	owner    string // the unique name of the service; "" if it does not run
	before   string // its unique name before the last change, whose last signals may still come
	requests bool   // send the ends of Requests, too
	lost     lostOnce
}

// lostOnce remembers the locks that were reported lost. A loss is signaled to the holder
// and to those who may see all losses, so a holder who may see all gets it twice. A
// service never uses a path again.
type lostOnce map[godbus.ObjectPath]struct{}

// maxLostOnce is how many paths are remembered; the two signals of one loss come close
// together.
const maxLostOnce = 1000

func (o *lostOnce) first(lock godbus.ObjectPath) bool {
	if _, again := (*o)[lock]; again {
		return false
	}
	if *o == nil || len(*o) >= maxLostOnce {
		*o = lostOnce{}
	}
	(*o)[lock] = struct{}{}
	return true
}

func (w *watcher) run(ctx context.Context, signals <-chan *godbus.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case s, ok := <-signals:
			if !ok {
				return
			}
			e, ok := w.event(s)
			if !ok {
				continue
			}
			select {
			case w.out <- e:
			case <-ctx.Done():
				return
			}
		}
	}
}

// fromService reports whether the service has sent a signal. Anybody can send one that looks
// like the service's; only the sender, which the bus fills in, proves where it comes from.
func (w *watcher) fromService(s *godbus.Signal) bool {
	if s.Sender == w.owner && w.owner != "" {
		return true
	}
	// A service that ends completes its requests, which may arrive after its name is gone.
	return s.Sender == w.before && w.before != "" && s.Name == Name+".Request.Completed"
}

func readCompletion(s *godbus.Signal) (*completion, error) {
	c := &completion{request: s.Path}
	return c, godbus.Store(s.Body, &c.state, &c.lock, &c.lockid, &c.token, &c.name, &c.words)
}

// event reads a signal.
func (w *watcher) event(s *godbus.Signal) (e Event, ok bool) {
	e.Time = time.Now()
	if s.Sender == "org.freedesktop.DBus" && s.Name == "org.freedesktop.DBus.NameOwnerChanged" {
		return w.ownerChanged(s, e)
	}
	if !w.fromService(s) {
		return e, false
	}
	var d map[string]godbus.Variant
	var err error
	switch s.Name {
	case Name + ".LockLost": // to everybody who may see all losses
		e.Kind = LockLost
		err = godbus.Store(s.Body, &e.Lock, &e.Lockspace, &e.Resource, &e.Mode, &e.Reason)
	case Name + ".Blocking":
		e.Kind = Blocking
		err = godbus.Store(s.Body, &e.Lock, &e.Resource, &e.Mode, &e.Node)
	case Name + ".Lock.Lost": // to the holder
		e.Kind, e.Lock = LockLost, s.Path
		err = godbus.Store(s.Body, &e.Lockspace, &e.Resource, &e.Mode, &e.Reason)
	case Name + ".LockspaceChanged":
		e.Kind = LockspaceChanged
		err = godbus.Store(s.Body, &e.Lockspace, &e.State, &d)
	case "org.freedesktop.DBus.Properties.PropertiesChanged":
		var iface string
		var gone []string
		e.Kind = StatusChanged
		err = godbus.Store(s.Body, &iface, &d, &gone)
		if iface != Name || s.Path != Path {
			return e, false
		}
	case Name + ".Request.Completed":
		e.Kind = requestCompleted
		e.completed, err = readCompletion(s)
		return e, err == nil && w.requests
	default:
		return e, false
	}
	e.Details = values(d)
	return e, err == nil && (e.Kind != LockLost || w.lost.first(e.Lock))
}

// ownerChanged notes which process is the service now. A change straight from one to
// another counts as a start.
func (w *watcher) ownerChanged(s *godbus.Signal, e Event) (Event, bool) {
	var name, before, now string
	if godbus.Store(s.Body, &name, &before, &now) != nil || name != Name {
		return e, false
	}
	w.owner, w.before, w.lost = now, before, nil
	e.Kind = ServiceStarted
	if now == "" {
		e.Kind = ServiceStopped
	}
	return e, true
}
