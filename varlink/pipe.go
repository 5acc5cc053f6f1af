package varlink

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// pipe is a descriptor that a lock hangs on, with the session that ends with it.
// The client gets the writing end; when its last copy is closed, by whatever
// process has it then, the reading end, which is here, hangs up (pipe(7)). So the kernel
// counts the copies, over fork(2), exec(2) and SCM_RIGHTS, as it does for flock(2).
//
// A pipe ends in one of three ways: the client has closed it (watch, close), the lock
// has ended (lose), or the service ends (Shutdown), which leaves the lock.
type pipe struct {
	door    *Door
	ours    *os.File          // the reading end; non-blocking, so that watch needs no thread
	theirs  *os.File          // the writing end; closed here once the client has its copy
	session *frontend.Session // the lock's; it has no other
	uid     uint32            // whose share of the Keeper's room a copy takes
	ref     api.Ref           // the lock; 0 until it is granted. Written with door.mu held
	once    sync.Once         // of close
	keptMu  sync.Mutex
	kept    string // what a copy of ours is kept as; "" where there is none. keptMu guards it
}

// open makes the pipe and the session.
func (p *pipe) open(c *call) (err error) {
	p.door = c.door
	if p.ours, p.theirs, err = os.Pipe(); err != nil {
		return err
	}
	if p.door.crowds(p.theirs) {
		_ = p.ours.Close()
		_ = p.theirs.Close()
		return errCrowded
	}
	c.conn.mu.Lock()
	session := c.conn.name()
	c.conn.mu.Unlock()
	p.session, p.uid = c.door.door.OpenAs(session, c.conn.creds), c.conn.creds.UID
	return nil
}

var errCrowded = errors.New("too many file descriptors of the service are in use; release locks, or raise " +
	"LimitNOFILE= in the unit of the service and restart it")

// crowds reports whether a pipe would take one of the descriptors that connections need: of those that
// are for clients, locks get three quarters.
func (d *Door) crowds(f *os.File) (yes bool) {
	raw, err := f.SyscallConn()
	if d.cfg.Reserved == nil || err != nil {
		return false
	}
	_ = raw.Control(func(fd uintptr) { yes = d.cfg.Reserved(int(fd + fd/3)) })
	return yes
}

// granted notes the lock that hangs on the pipe. It runs with the grant, on the
// goroutine that the service's notices come on: a loss finds the pipe, also before
// the reply is written.
func (p *pipe) granted(ref api.Ref) {
	d := p.door
	d.mu.Lock()
	defer d.mu.Unlock()
	p.ref = ref
	if d.pipes[ref] == nil {
		d.pipes[ref] = make(map[*pipe]struct{})
	}
	d.pipes[ref][p] = struct{}{}
	d.startLooking()
}

// sent goes on after the reply with the descriptor was written, or was not: then nobody
// has the descriptor, and nobody knows of the lock. If the lock was lost meanwhile, watch
// ends at once.
func (p *pipe) sent(err error) {
	if err != nil || p.ref == 0 {
		p.close()
		p.forget()
		return
	}
	_ = p.theirs.Close()
	p.startWatch()
}

// startWatch has watch run, unless the service ends.
func (p *pipe) startWatch() {
	d := p.door
	d.mu.Lock()
	ending := d.ending.Err() != nil
	if !ending {
		d.work.Add(1)
		go p.watch()
	}
	d.mu.Unlock()
	if ending {
		_ = p.ours.Close()
		p.forget()
	}
}

// forget undoes granted.
func (p *pipe) forget() {
	d := p.door
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.pipes[p.ref], p); len(d.pipes[p.ref]) == 0 {
		delete(d.pipes, p.ref)
	}
}

// close ends the session, and so the lock, at once.
func (p *pipe) close() {
	p.once.Do(func() {
		p.session.Close()
		_ = p.ours.Close()
		_ = p.theirs.Close()
		p.unkeep()
	})
}

// watch waits until nobody has the descriptor any more. What somebody writes into
// the pipe is not read. When the service ends, the lock stays as it is: the next
// start goes on if there is a copy, and releases it otherwise.
func (p *pipe) watch() {
	d := p.door
	defer d.work.Done()
	raw, err := p.ours.SyscallConn()
	if err == nil {
		// The runtime calls this at each event of the descriptor (epoll(7), edge-triggered),
		// also when somebody writes; only POLLHUP means that no writer is left.
		err = raw.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd)}}
			_, err := unix.Poll(poll, 0)
			return err == nil && poll[0].Revents&unix.POLLHUP != 0
		})
	}
	p.forget()
	if d.ending.Err() != nil && err != nil {
		return // it was closed here
	}
	p.close()
}

// lose tells whoever has the descriptor that the lock does not hang on it any more:
// a write into it fails, and poll(2) says POLLERR. Closing our end also ends watch, which
// then closes the session.
func (p *pipe) lose() {
	_ = p.ours.Close()
	p.unkeep()
}
