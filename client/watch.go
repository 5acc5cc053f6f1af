package client

import (
	"context"
	"time"
)

// EventKind says what has happened.
type EventKind string

// The kinds of events, and what fields of Event they fill.
const (
	LockLost         EventKind = "lock-lost"         // Lock, Lockspace, Resource, Mode, Reason
	Blocking         EventKind = "blocking"          // Lock, Resource, Mode: somebody waits for the lock; Node
	LockspaceChanged EventKind = "lockspace-changed" // Lockspace, State, Details
	StatusChanged    EventKind = "status-changed"    // Details: the properties that changed
	ServiceStarted   EventKind = "service-started"
	ServiceStopped   EventKind = "service-stopped"
)

// Only the watch over the locks of Hold gets these.
const (
	lockTouched EventKind = "lock-touched" // Lock was changed; Mode, State and token are the new ones
	lockRemoved EventKind = "lock-removed" // Lock no longer exists; if it was lost, LockLost came before
)

// owners selects locks of one user by their owner. The zero value selects all locks.
type owners struct {
	name   string
	prefix bool // all owners that begin with name
	uid    int  // of the user that takes the locks
}

// Event is something that the service reports by a signal.
type Event struct {
	Time      time.Time      `json:"time"`
	Kind      EventKind      `json:"event"`
	Lock      LockName       `json:"lock,omitempty"`
	Lockspace string         `json:"lockspace,omitempty"` // only of Blocking over Varlink: the signal has no lockspace
	Resource  string         `json:"resource,omitempty"`
	Mode      string         `json:"mode,omitempty"`
	Owner     string         `json:"owner,omitempty"` // not filled by Watch
	Label     string         `json:"label,omitempty"` // not filled by Watch
	Node      uint32         `json:"node,omitempty"`  // of who waits; 0: not known
	Reason    string         `json:"reason,omitempty"`
	State     string         `json:"state,omitempty"`
	Details   map[string]any `json:"details,omitempty"`

	completed *completion // requestCompleted
	token     uint64      // lockTouched
}

// Watch sends the signals of the service from now on, until the context or the
// connection ends; then it closes the channel. The bus shows LockLost and
// LockspaceChanged only to root and to those whom its policy lets see them; Blocking,
// and LockLost of a lock of its own, come to the connection that asked for the
// lock. The channel must be read.
func (c *Client) Watch(ctx context.Context) (<-chan Event, error) { return c.transport().watch(ctx) }
