package client

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The pauses between two attempts to find a service again that has ended. While nobody listens at its
// socket, an attempt costs nobody but the client anything, so for redialOften it tries every
// retryPause: an outage is mostly a restart. 1,000 programs that wait in this way take six tenths of a
// processor together, and a tenth once their pauses have grown to redialMost. An attempt that somebody
// accepts costs more: where systemd listens, it starts the service.
const (
	redialMost  = 2 * time.Second
	redialOften = 30 * time.Second
)

// redial is the time during which a client looks for a service that has ended.
type redial struct {
	since time.Time
	last  time.Duration // the pause before the last attempt
}

// pause returns how long to wait after an attempt that has ended with this error.
func (r *redial) pause(err error, now time.Time) time.Duration {
	nobody := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
	switch {
	case r.last == 0 || nobody && now.Sub(r.since) < redialOften:
		r.last = retryPause
	default:
		r.last = min(2*r.last, redialMost)
	}
	return r.last
}

// eventReply is a reply of Monitor.
type eventReply struct {
	Ready       *bool      `json:"ready"`
	LockLost    *lostReply `json:"lockLost"`
	LockChanged *lockReply `json:"lockChanged"`
	LockRemoved string     `json:"lockRemoved"`
	Blocking    *struct {
		Lock      string  `json:"lock"`
		Lockspace string  `json:"lockspace"` // "": the service is older than this field
		Resource  string  `json:"resource"`
		Mode      *string `json:"mode"`
		NodeID    uint32  `json:"nodeId"`
	} `json:"blocking"`
	LockspaceChanged *lockspaceReply `json:"lockspaceChanged"`
	ServiceChanged   *serviceReply   `json:"serviceChanged"`
	Overflow         *bool           `json:"overflow"`
}

// varlinkWatcher is a watch of the service, over its restarts.
type varlinkWatcher struct {
	v   *varlink
	ctx context.Context
	of  owners
	out chan Event

	first chan error // how the first attempt to watch ended; one element
	told  bool       // first has it
	there bool       // the service answers
	// complete is set while the service reports every change of the locks of these owners.
	complete *atomic.Bool
	// known has the last values of the properties. Monitor sends all of them with each change, and
	// an Event has only those that have changed.
	known map[string]any
}

// watch returns when the service watches, or when it is known not to run.
func (v *varlink) watch(ctx context.Context) (<-chan Event, error) {
	return v.watchOwners(ctx, owners{}, new(atomic.Bool))
}

func (v *varlink) watchOwners(ctx context.Context, of owners, complete *atomic.Bool) (<-chan Event, error) {
	w := &varlinkWatcher{v: v, ctx: ctx, of: of, out: make(chan Event), first: make(chan error, 1), complete: complete}
	go w.run()
	if err := <-w.first; err != nil && !errors.Is(err, NotRunning) {
		return nil, err
	}
	return w.out, nil
}

// run watches again when a watch has ended.
func (w *varlinkWatcher) run() {
	defer close(w.out)
	outage := redial{since: time.Now()}
	for {
		err := w.monitor()
		if !w.told {
			w.told = true
			w.first <- err
			if err != nil && !errors.Is(err, NotRunning) {
				return
			}
		}
		if w.ctx.Err() != nil || w.v.closed() {
			return
		}
		if w.there {
			w.there, outage = false, redial{since: time.Now()}
			if !w.send(Event{Kind: ServiceStopped}) {
				return
			}
		}
		if !pause(w.ctx, outage.pause(err, time.Now())) {
			return
		}
	}
}

// monitor makes one call of Monitor, on a connection of its own, and returns when that ends: with
// the service, with the context, or because this program has read too slowly (the service says
// overflow and ends the call). After an overflow events may be missing, as after a restart. The
// caller sees both as an end and a start of the service, and has to look again.
//
// A service that is older than the parameters for owners refuses them. Then monitor watches all
// losses, which such a service permits to only a few connections at once.
func (w *varlinkWatcher) monitor() error {
	defer w.complete.Store(false)
	all := parameters{"existing": false, "events": []string{"lockLost", "blocking", "lockspaceChanged", "serviceChanged"}}
	if w.of == (owners{}) {
		return w.monitorFor(all, false)
	}
	p := parameters{"existing": false, "events": []string{"lockLost", "lockChanged", "lockRemoved"}}
	if w.of.prefix {
		p["ownerPrefix"] = w.of.name
	} else {
		p["owner"] = w.of.name
	}
	err := w.monitorFor(p, true)
	if errors.Is(err, InvalidArgs) {
		return w.monitorFor(all, false)
	}
	return err
}

// monitorFor calls Monitor with these parameters. complete is for a call that reports every change.
func (w *varlinkWatcher) monitorFor(p parameters, complete bool) error {
	c, err := w.v.pool.dial(w.ctx)
	if err != nil {
		return varlinkError("Watch", err)
	}
	defer func() { _ = c.sock.Close() }()
	return w.v.on(w.ctx, c, "Watch", Name+".Monitor", p, true, func(text json.RawMessage) error {
		var r eventReply
		if err := json.Unmarshal(text, &r); err != nil {
			return err
		}
		if r.Ready != nil {
			// The service reports the locks of the user that made the connection.
			w.complete.Store(complete && w.of.uid == os.Geteuid())
		}
		for _, e := range w.events(&r) {
			if !w.send(e) {
				return w.ctx.Err()
			}
		}
		return nil
	})
}

// events are what a reply reports.
func (w *varlinkWatcher) events(r *eventReply) (all []Event) {
	if r.Ready != nil {
		w.there = true
		if w.of == (owners{}) {
			w.known, _ = w.v.status(w.ctx) // without it the next change shows everything
		}
		if w.told {
			return []Event{{Kind: ServiceStarted}}
		}
		w.told = true
		w.first <- nil
	}
	if l := r.LockLost; l != nil {
		all = append(all, Event{Kind: LockLost, Lock: named(l.Lock), Lockspace: l.Lockspace, Resource: l.Resource,
			Mode: upper(l.Mode), Reason: l.Reason})
	}
	if l := r.LockChanged; l != nil {
		all = append(all, Event{Kind: lockTouched, Lock: named(l.Lock), Mode: upper(l.Mode), State: l.State,
			token: l.Token})
	}
	if r.LockRemoved != "" {
		all = append(all, Event{Kind: lockRemoved, Lock: named(r.LockRemoved)})
	}
	if b := r.Blocking; b != nil {
		all = append(all, Event{Kind: Blocking, Lock: named(b.Lock), Lockspace: b.Lockspace, Resource: b.Resource,
			Mode: upper(b.Mode), Node: b.NodeID})
	}
	if s := r.LockspaceChanged; s != nil {
		all = append(all, Event{Kind: LockspaceChanged, Lockspace: s.Name, State: s.State, Details: s.details()})
	}
	if s := r.ServiceChanged; s != nil {
		if d := w.changed(s.properties()); len(d) > 0 {
			all = append(all, Event{Kind: StatusChanged, Details: d})
		}
	}
	return all
}

// changed returns the properties that are not as they were.
func (w *varlinkWatcher) changed(now map[string]any) map[string]any {
	d := map[string]any{}
	for key, v := range now {
		if !reflect.DeepEqual(w.known[key], v) {
			d[key] = v
		}
	}
	w.known = now
	return d
}

func (w *varlinkWatcher) send(e Event) bool {
	e.Time = time.Now()
	select {
	case w.out <- e:
		return true
	case <-w.ctx.Done():
	case <-w.v.done():
	}
	return false
}

// details are as on the bus.
func (r *lockspaceReply) details() map[string]any {
	d := map[string]any{}
	if r.Error != "" {
		d["error"] = r.Error
	}
	h := r.Health
	if h == nil {
		return d
	}
	d["stopped"], d["recovery"] = h.Stopped, h.Recovery
	if h.Quorate != nil {
		d["quorate"] = *h.Quorate
	}
	if h.Reason != "" {
		d["reason"] = h.Reason
	}
	if len(h.Members) > 0 {
		d["members"] = h.Members
	}
	return d
}
