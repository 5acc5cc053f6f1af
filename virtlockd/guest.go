package virtlockd

import (
	"errors"
	"fmt"
	"sync"

	"github.com/dlmlock/dlmlockd/process"
)

// guests are the start times of the processes that have registered themselves, by
// pid. Each is kept for as long as the connection is open over which that was,
// which QEMU keeps to its end.
type guests struct {
	mu    sync.Mutex
	start map[uint32]guest
}

type guest struct {
	start uint64
	by    *connection
}

func (g *guests) add(pid uint32, start uint64, by *connection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.start[pid] = guest{start, by}
}

func (g *guests) find(pid uint32) (start uint64, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, ok := g.start[pid]
	return f.start, ok
}

func (g *guests) remove(pid uint32, by *connection) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.start[pid].by == by {
		delete(g.start, pid)
	}
}

// registration is for whom a connection locks disks.
type registration struct {
	uuid string
	name string // of the domain, for people
	pid  uint32
	// start is the start time of the process. Where err is not nil, it could not
	// be found out, or there is no such process (process.ErrGone).
	start uint64
	err   error
}

// maxDomain is how much of a domain's name is shown, in bytes.
const maxDomain = 200

// register takes down for whom this connection is. The child that becomes QEMU
// names itself: then its start time is certain, because it waits for the answer.
// libvirtd names a process that has registered itself before, or, after this
// program was restarted, one of which only the pid is known.
func (c *connection) register(r registerArgs) {
	g := &registration{uuid: r.UUID.String(), name: clip(r.Name, maxDomain), pid: r.PID}
	itself := r.PID == c.pid && r.PID != 0
	known := false
	if !itself {
		g.start, known = c.door.guests.find(r.PID)
	}
	if !known {
		g.start, g.err = c.door.startOf(r.PID)
	}
	if itself && g.err == nil {
		c.forgetGuest()
		c.door.guests.add(r.PID, g.start, c)
		c.guest = r.PID
	}
	c.domain, c.taken = g, nil
}

// forgetGuest ends what register began.
func (c *connection) forgetGuest() {
	if c.guest != 0 {
		c.door.guests.remove(c.guest, c)
		c.guest = 0
	}
}

// owner is the owner of the domain's locks, which dlmlock.so names in the same way.
func (g *registration) owner() string { return fmt.Sprintf("%s/%d/%d", g.uuid, g.pid, g.start) }

// ended reports whether the process is certainly gone.
func (g *registration) ended() bool { return errors.Is(g.err, process.ErrGone) }

func (u uuid) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
