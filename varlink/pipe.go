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
// process has it then, the reading end, which is here, hangs up.
type pipe struct {
	door    *Door
	ours    *os.File
	theirs  *os.File
	session *frontend.Session
	ref     api.Ref // the lock; 0 until it is granted
	once    sync.Once
}

// open makes the pipe and the session.
func (p *pipe) open(c *call) (err error) {
	p.door = c.door
	if p.ours, p.theirs, err = os.Pipe(); err != nil {
		return err
	}
	c.conn.mu.Lock()
	session := c.conn.name()
	c.conn.mu.Unlock()
	p.session = c.door.door.OpenAs(session, c.conn.creds)
	return nil
}

// sent goes on after the reply with the descriptor was written, or was not.
func (p *pipe) sent(err error) {
	if err != nil || p.ref == 0 {
		p.close()
		return
	}
	_ = p.theirs.Close()
	d := p.door
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pipes[p] = struct{}{}
	d.work.Add(1)
	go p.watch()
	if d.ending.Err() != nil {
		_ = p.ours.Close()
	}
}

// close ends the session, and so the lock, at once.
func (p *pipe) close() {
	p.once.Do(func() {
		p.session.Close()
		_ = p.ours.Close()
		_ = p.theirs.Close()
	})
}

// watch waits until nobody has the descriptor any more. What somebody writes into
// the pipe is not read. When the service ends, the lock stays as it is, and the
// next start releases it.
func (p *pipe) watch() {
	d := p.door
	defer d.work.Done()
	raw, err := p.ours.SyscallConn()
	if err == nil {
		err = raw.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd)}}
			_, err := unix.Poll(poll, 0)
			return err == nil && poll[0].Revents&unix.POLLHUP != 0
		})
	}
	d.mu.Lock()
	delete(d.pipes, p)
	d.mu.Unlock()
	if d.ending.Err() != nil && errors.Is(err, os.ErrClosed) {
		return
	}
	p.close()
}

// lose tells whoever has the descriptor that the lock is lost: a write into it
// fails, and poll(2) says POLLERR.
func (p *pipe) lose() { _ = p.ours.Close() }
