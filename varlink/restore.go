package varlink

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// What an earlier process has kept comes back in three steps, in the order of the start:
// Inherit before the service reads its records, since Kept says which sessions live on;
// then activation, which releases the locks of all others; then Restore, when the service
// answers. A client that ends in between is noticed by Restore's readers.

// inheritance is a connection or a descriptor that an earlier process has kept.
type inheritance struct {
	keptThing
	name string
	sock *net.UnixConn // of a connection
	mark wire.Mark
	file *os.File // of a descriptor
}

// Inherit takes a descriptor that was kept under a name by an earlier process, and
// drops it if nothing can go on with it. It comes before Sessions are said to the
// service.
func (d *Door) Inherit(name string, f *os.File) {
	i, err := inherit(name, f)
	if err != nil {
		d.log.Info("a kept connection can't go on, so its locks end", "name", name, "err", err)
		d.dropInherited(name)
		return
	}
	d.inherited = append(d.inherited, *i)
}

// dropInherited has the Keeper forget its copy: otherwise the client would not see its
// connection end, and the next start would find it again.
func (d *Door) dropInherited(name string) {
	if d.shelf.keeper != nil {
		d.shelf.keeper.Drop(name)
	}
}

var errOtherEnd = errors.New("the other end is closed")

// inherit finds out whether something can go on. It closes f otherwise.
func inherit(name string, f *os.File) (*inheritance, error) {
	k, err := parseKept(name)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	i := &inheritance{keptThing: k, name: name}
	if k.kind == keptConnection {
		return i, i.takeSocket(f)
	}
	return i, i.takePipe(f)
}

// takePipe makes a file of f that can be waited for, and closes f. os.NewFile puts a
// descriptor into the runtime's poller only if it is non-blocking when it is made, which
// the descriptors of sd_listen_fds(3) are not known to be; hence another file.
func (i *inheritance) takePipe(f *os.File) error {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	err = unix.SetNonblock(fd, true)
	file := os.NewFile(uintptr(fd), i.name)
	raw, cerr := file.SyscallConn()
	if err = errors.Join(err, cerr); err == nil && wire.HungUp(raw) {
		err = errOtherEnd
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	i.file = file
	return nil
}

// takeSocket makes a connection of f, and closes it if that can't go on.
func (i *inheritance) takeSocket(f *os.File) error {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return err
	}
	sock, ok := c.(*net.UnixConn)
	if !ok {
		return errors.Join(errors.New("it is not a unix socket"), c.Close())
	}
	if i.mark, err = markOf(sock); err != nil {
		wire.End(sock)
		return err
	}
	i.sock = sock
	return nil
}

// markOf returns where the conversation was, or why it can't go on.
func markOf(sock *net.UnixConn) (wire.Mark, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return 0, err
	}
	if wire.HungUp(raw) {
		return 0, errOtherEnd
	}
	m, err := wire.ReadMark(raw)
	if err == nil && m == wire.Unclear {
		err = errors.New("the service ended while it was reading a call, or writing a reply")
	}
	return m, err
}

// Kept are the sessions of what was inherited: their locks go on.
func (d *Door) Kept() map[api.Session]struct{} {
	kept := make(map[api.Session]struct{}, len(d.inherited))
	for i := range d.inherited {
		kept[d.inherited[i].session] = struct{}{}
	}
	return kept
}

// Restore goes on with what was inherited. It comes before the notices of the start, so
// that a loss that activation has found reaches whoever holds the connection.
func (d *Door) Restore() {
	for n := range d.inherited {
		i := &d.inherited[n]
		if i.file != nil {
			d.restorePipe(i)
			continue
		}
		d.expectResumed(i)
		if err := d.server.Restore(i.sock, i.mark, i); err != nil {
			d.forgetResumed(i)
			d.log.Warn("a kept connection can't go on, so its locks end", "session", string(i.session), "err", err)
			wire.End(i.sock)
			d.dropInherited(i.name)
			d.cfg.Core.Service().SessionGone(i.session)
		}
	}
	if len(d.inherited) > 0 {
		d.log.Info("connections from before the restart go on", "count", len(d.inherited))
	}
	d.inherited = nil
}

// expectResumed keeps blocking notices for the call of a connection that will go on.
func (d *Door) expectResumed(i *inheritance) {
	if i.ref == 0 || i.mark != wire.Open {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.resuming[i.ref] == nil {
		d.resuming[i.ref] = make(map[*inheritance]*api.BlockingNotice)
	}
	d.resuming[i.ref][i] = nil
}

// forgetResumed ends what expectResumed began, for a call that does not go on.
func (d *Door) forgetResumed(i *inheritance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dropResumed(i)
}

// dropResumed is forgetResumed with d.mu held.
func (d *Door) dropResumed(i *inheritance) {
	if delete(d.resuming[i.ref], i); len(d.resuming[i.ref]) == 0 {
		delete(d.resuming, i.ref)
	}
}

// restore makes the connection the one from before the restart.
func (c *conn) restore(i *inheritance) {
	c.first, c.seen, c.kept = i.session, time.Duration(i.number), i.name
	c.door.shelf.takeBack(c.creds.UID)
	c.opened = 1
	// Also if no call comes any more, its end has to be told to the service.
	c.session = c.door.door.Reopen(c.first, c.seen, c.creds)
}

// takeBack counts what was kept by an earlier process.
func (s *shelf) takeBack(uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken++
	s.users[uid]++
}

// restorePipe goes on with a descriptor. Its client has the other end and nothing to
// say, so there is no connection for it.
func (d *Door) restorePipe(i *inheritance) {
	p := &pipe{door: d, ours: i.file, uid: uint32(i.number), kept: i.name}
	p.session = d.door.Reopen(i.session, 0, frontend.Credentials{UID: p.uid})
	d.shelf.takeBack(p.uid)
	p.granted(i.ref)
	p.startWatch()
	d.check(i.ref) // it may have been lost or released meanwhile
}

// resumed is a call from before the restart. Its caller still waits for a reply. What it
// asked for is not known any more, except that a call which goes on about a lock was an
// Acquire with more.
type resumed struct {
	silent
	from *inheritance // its connection, whose ref is the lock; nil: it does not go on
}

// resume makes c what wire.Server.Restore has found.
func (c *call) resume() {
	i := c.wire.Conn.Restored.(*inheritance)
	if c.wire.Resumed != wire.Open || i.ref == 0 {
		c.Name, c.in = "a call from before the restart", &resumed{}
		return
	}
	c.Name, c.in = "Acquire", &resumed{from: i}
	c.after = func(error) { c.door.forgetResumed(i) } // it may have ended without going on
}

func (*resumed) method(*wire.Call) (frontend.Method, error) { return nil, nil }

func (r *resumed) run(c *call) {
	if r.from == nil {
		c.Fail(&api.Error{Kind: api.Internal, Mode: dlm.None, Hint: api.HintInspect,
			Text: "the service was restarted while it carried out the call; the outcome is not known"})
		return
	}
	c.wire.GoOn()
	// First hold, then look: what happens after the look is reported.
	c.door.holdOn(r.from, c)
	ref := r.from.ref
	c.door.cfg.Core.Service().Lock(ref, func(_ api.LockInfo, err error) {
		if errors.Is(err, api.NotHeld) {
			c.door.goneMeanwhile(ref)
		}
	})
}

// goneMeanwhile ends the calls about a lock that the last start had, and this one
// has not.
func (d *Door) goneMeanwhile(ref api.Ref) {
	d.cfg.Core.Service().Lost(api.Filter{Limit: frontend.MaxLost}, func(list []api.Lost, _ error) {
		for i := range list {
			if list[i].Ref != ref {
				continue
			}
			for _, c := range d.takeHolders(ref) {
				c.reply(acquireOut{Lost: some(lostOf(&list[i]))})
			}
		}
		d.released(ref)
	})
}

// leave implements leaver.
func (r *resumed) leave(c *call, why error) {
	if r.from != nil {
		c.endHeld(r.from.ref, why)
	}
}

// step is Config.OnStep.
func (d *Door) step(name string) {
	if d.cfg.OnStep != nil {
		d.cfg.OnStep(name)
	}
}
