package main

import (
	"context"
	"errors"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/client"
)

// The events that monitor finds out by itself.
const (
	lockGranted   client.EventKind = "lock-granted"
	lockWaiting   client.EventKind = "lock-waiting" // for its first grant, or to be converted
	lockConverted client.EventKind = "lock-converted"
	lockReleased  client.EventKind = "lock-released"
	waitEnded     client.EventKind = "wait-ended" // without a grant
)

// The service tells its clients of losses, but not of each grant and release. So
// monitor lists the locks again and again, and compares: a lock that comes and goes
// between two looks is not shown.
const (
	lookEvery = time.Second
	// The pause is this many times as long as the look, so that monitor costs the
	// service little even if there are very many locks.
	lookPause = 20
	// mostAsked is how many of the locks that have gone are looked at in one look,
	// to tell a loss from a release, which the bus does not let everybody see.
	mostAsked = 10
)

// watchLocks sends what changes in the locks that match the filter, until the
// context ends. It reports whether the service runs; if it does not, its locks are watched
// from its start on.
func watchLocks(ctx context.Context, c *client.Client, f client.Filter) (<-chan client.Event, bool, error) {
	locks, err := c.Locks(ctx, f)
	if err != nil && !errors.Is(err, client.NotRunning) {
		return nil, false, err
	}
	running := err == nil
	begun := running // if the service does not run yet, the first look has nothing to compare with
	out := make(chan client.Event)
	go func() {
		last := byPath(locks)
		for pause := lookEvery; ; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			begin := time.Now()
			locks, err := c.Locks(ctx, f)
			if err != nil {
				continue // the service is away; the next look sees what has changed
			}
			pause = max(lookEvery, time.Since(begin)*lookPause)
			var events []client.Event
			if begun {
				events = compare(last, locks, begin)
			}
			last, begun = byPath(locks), true
			findLosses(ctx, c, events)
			for _, e := range events {
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out, running, nil
}

// byPath keys locks by their object paths, which stay the same over a restart of
// the service.
func byPath(locks []client.Lock) map[godbus.ObjectPath]client.Lock {
	all := make(map[godbus.ObjectPath]client.Lock, len(locks))
	for _, l := range locks {
		all[l.Lock] = l
	}
	return all
}

// compare returns what has happened between two looks: first what is new, and then
// what has gone.
func compare(last map[godbus.ObjectPath]client.Lock, locks []client.Lock, at time.Time) []client.Event {
	var events []client.Event
	tell := func(kind client.EventKind, l client.Lock, mode string) {
		events = append(events, client.Event{Time: at, Kind: kind, Lock: l.Lock, Lockspace: l.Lockspace, Resource: l.Resource,
			Mode: mode, Owner: l.Owner, Label: l.Label})
	}
	gone := make(map[godbus.ObjectPath]client.Lock, len(last))
	for path, l := range last {
		gone[path] = l
	}
	for _, l := range locks {
		old := last[l.Lock]
		delete(gone, l.Lock)
		switch {
		case l.Wanted != "" && l.Wanted != old.Wanted:
			tell(lockWaiting, l, l.Wanted)
		case l.Mode != "" && old.Mode == "":
			tell(lockGranted, l, l.Mode)
		case l.Mode != "" && l.Mode != old.Mode:
			tell(lockConverted, l, l.Mode)
		}
	}
	for _, l := range gone {
		if l.Mode == "" {
			tell(waitEnded, l, l.Wanted)
		} else {
			tell(lockReleased, l, l.Mode)
		}
	}
	return events
}

// findLosses asks about locks that have gone, and turns releases that were losses
// into those.
func findLosses(ctx context.Context, c *client.Client, events []client.Event) {
	asked := 0
	for i := range events {
		e := &events[i]
		if e.Kind != lockReleased || asked == mostAsked {
			continue
		}
		asked++
		in, err := c.Inspect(ctx, e.Lockspace, e.Resource)
		if err != nil {
			continue
		}
		for _, l := range in.Lost {
			if l.Lock == e.Lock {
				e.Kind, e.Reason = client.LockLost, l.Reason
			}
		}
	}
}
