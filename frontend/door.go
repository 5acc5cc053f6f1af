package frontend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/internal/boottime"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Door is one front end's part of a Core. It has a name space of its own for
// its sessions, so that it can't say anything about those of another door.
type Door struct {
	core  *Core
	space api.Session // with an empty name
	// See DoorConfig.Serial.
	serial bool
	// See DoorConfig.Direct.
	direct bool
	// See DoorConfig.Cost.
	cost func(bytes int) int64
	// See DoorConfig.KeepRequests.
	keep   time.Duration
	listen func(Event) // set by Listen
}

// DoorConfig is how the calls of a door's sessions are to be served.
type DoorConfig struct {
	// Serial begins the next call of a session when the one before is answered,
	// for protocols whose answers come in the order of the calls. Otherwise calls
	// are handed to the service in their order and are answered whenever the
	// service answers.
	Serial bool
	// Direct has Submit serve a call on its own goroutine where nothing can hold that up:
	// the caller is root, who is not asked about, and has credit. It is for doors that
	// have a goroutine for each connection, and no mutex in Submit.
	Direct bool
	// Cost returns how many of the bytes that a user may take in a second are charged for a
	// message of so many bytes. nil: its length, for a door where a message holds up only its
	// own connection.
	Cost func(bytes int) int64
	// KeepRequests is how long a request can be looked at after it has ended.
	KeepRequests time.Duration
}

// Door makes the part of a front end. Its name space, a session without a name
// (api.MakeSession), must differ from those of other doors, and wherever a name
// that was given to a session once may be given to another one.
func (c *Core) Door(space api.Session, cfg DoorConfig) *Door {
	d := &Door{core: c, space: space, serial: cfg.Serial, direct: cfg.Direct, cost: cfg.Cost, keep: cfg.KeepRequests}
	if d.cost == nil {
		d.cost = func(bytes int) int64 { return int64(bytes) }
	}
	return d
}

// Core is what the door is a part of.
func (d *Door) Core() *Core { return d.core }

// Local is the name that a session of this door has within the name space. It is
// false for sessions of other doors.
func (d *Door) Local(s api.Session) (name string, ok bool) { return s.In(d.space) }

// Missed reports the sessions gone that locks hang on and that are not alive
// any more: those of earlier daemons that ended while nobody looked. It comes
// after the door has begun to watch for ending sessions, so that none ends in
// between. alive is asked last: a session that the service knows and that is
// not alive then has been there and is gone. Where alive fails, nothing is
// reported, and the error is returned. It blocks until ctx ends.
func (d *Door) Missed(ctx context.Context, alive func(context.Context) (names []string, err error)) error {
	sessions := make(chan []api.Session, 1)
	d.core.service.Sessions(func(all []api.Session) { sessions <- all })
	var known []api.Session
	select {
	case known = <-sessions:
	case <-ctx.Done():
		return fmt.Errorf("look for vanished callers: %w", ctx.Err())
	}
	there, err := alive(ctx)
	if err != nil {
		return fmt.Errorf("look for vanished callers: %w", err)
	}
	for _, session := range known {
		if name, ok := d.Local(session); ok && !slices.Contains(there, name) {
			d.Gone(name)
		}
	}
	return nil
}

// Gone reports a session gone that was never opened here: it has called a
// daemon before this one.
func (d *Door) Gone(name string) { d.core.service.SessionGone(d.space + api.Session(name)) }

// Credentials say who is behind a session.
type Credentials struct {
	UID  uint32
	GIDs []uint32
	PID  uint32 // in the service's pid namespace; 0: not known, or not in it
	// Start is the start time of PID (/proc/PID/stat, field 22), read while PID
	// was known to be the peer's; 0: not known.
	Start uint64
	// BusName is the peer's unique name on the message bus; "" if it is not on it.
	BusName string
}

// Open makes a session, which lives until Session.Close. The name must not have
// been used in this name space before. identify is asked for the credentials
// before the first call is served, and again if it fails; it may block.
func (d *Door) Open(name string, identify func(context.Context) (Credentials, error)) *Session {
	seen, _ := boottime.Now() // 0: not known
	s := &Session{door: d, core: d.core, name: d.space + api.Session(name), seen: seen, identify: identify}
	s.ctx, s.cancel = context.WithCancel(d.core.ctx)
	return s
}

// OpenAs is Open with credentials that are known.
func (d *Door) OpenAs(name string, creds Credentials) *Session {
	s := d.Open(name, nil)
	s.belong(&creds)
	return s
}

// Reopen is OpenAs for a session of an earlier process, in the name space that it had
// there, which was opened at the time seen since the boot; 0: not known.
func (d *Door) Reopen(s api.Session, seen time.Duration, creds Credentials) *Session {
	r := d.Open("", nil)
	r.name, r.seen = s, seen
	r.belong(&creds)
	return r
}
