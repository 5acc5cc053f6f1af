package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/varlink"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// usualVarlinkSocket is where dlmlockd-varlink.socket listens.
const usualVarlinkSocket = "/run/dlmlock/org.example.DlmLock"

// listens reports whether a socket accepts connections. A connected one, which net takes for a
// listener as well, does not.
func listens(l *net.UnixListener) bool {
	raw, err := l.SyscallConn()
	if err != nil {
		return true // accepting from it tells more
	}
	accepts := 1
	_ = raw.Control(func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil {
			accepts = n
		}
	})
	return accepts != 0
}

// varlinkNames are the names of the sockets for Varlink that are passed on (FileDescriptorName=).
var varlinkNames = []string{"varlink", "dlmlockd-varlink.socket"}

// errSingle is the error of a daemon that was started for one connection.
var errSingle = &usageError{"started for a single connection, as varlinkctl does for exec:PROGRAM; the service is " +
	"one process for all clients of a node: connect to its socket, " + usualVarlinkSocket}

// openVarlink makes the door for Varlink, if there is a socket for it: from systemd,
// or by --varlink. It serves nobody yet; who connects waits.
func (d *daemon) openVarlink(inherited []net.Listener) error {
	for _, l := range inherited {
		u, ok := l.(*net.UnixListener)
		if !ok {
			return fmt.Errorf("serve Varlink at %s: that is not a unix socket; mend ListenStream= in the unit", l.Addr())
		}
		// An earlier process that was killed has left it as short as it is during the work.
		if err := wire.LengthenQueue(u); err != nil {
			return fmt.Errorf("listen for Varlink at %s: %w", u.Addr(), err)
		}
		d.varlinkSockets = append(d.varlinkSockets, u)
	}
	d.varlinkActivated = len(inherited) > 0
	if path := d.opts.varlink; path != "" {
		l, err := listenForVarlink(path)
		if err != nil {
			return err
		}
		d.varlinkSockets = append(d.varlinkSockets, l)
		d.varlinkActivated = false // nobody but us listens there
	}
	return nil
}

// listenForVarlink makes a socket that everybody may connect to. It does not take
// the place of another program.
func listenForVarlink(path string) (*net.UnixListener, error) {
	bad := func(err error) error { return &usageError{fmt.Sprintf("--varlink=%s: %v", path, err)} }
	if !vacate(path) {
		return nil, bad(errors.New("another program listens there"))
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	switch {
	case wire.IsScarcity(err):
		return nil, err // which is no mistake of the command line
	case err != nil:
		return nil, bad(err)
	}
	// Until here the umask decides who may connect. A client that is refused in that moment tries
	// again, as it does while the service is not running.
	if err := os.Chmod(path, 0o666); err != nil {
		_ = l.Close()
		return nil, bad(err)
	}
	return l, nil
}

// buildVarlink makes the door, and gives it what an earlier process has kept. That comes before the
// service is made, which has to know whose locks go on (sessions, Kept).
func (d *daemon) buildVarlink() {
	if len(d.varlinkSockets) == 0 {
		d.dropKept()
		return
	}
	c := varlink.Config{
		Core: d.core, Log: d.log, LogLevel: d.control, Reload: d.askReload, StateFile: d.file.Path(),
		Version: thisBuild().Version, Commit: thisBuild().Commit, BuildDate: thisBuild().Date, OnStep: onStep,
		MaxConnections: connectionsOf(wire.DefaultMaxConnections), Reserved: process.Reserved,
	}
	if d.store != nil {
		c.Keeper = d.store
	}
	d.varlink = varlink.New(c)
	for _, f := range d.kept {
		d.varlink.Inherit(f.Name(), f)
	}
	d.kept = nil
}

// dropKept ends the connections of earlier processes, where Varlink is not served.
func (d *daemon) dropKept() {
	for _, f := range d.kept {
		if d.store != nil {
			d.store.Drop(f.Name())
		}
		_ = f.Close()
	}
	d.kept = nil
}

// serveVarlink lets callers in: first those from before the restart, who still hold what others want.
func (d *daemon) serveVarlink() {
	if d.varlink == nil {
		return
	}
	d.varlink.Restore()
	for _, l := range d.varlinkSockets {
		d.log.Info("Varlink is served", "path", l.Addr().String())
		go func() {
			if err := d.varlink.Serve(l); err != nil {
				d.log.Error("Varlink is not served any more; restart the service, which loses no persistent lock", "err", err)
			}
		}()
	}
}

// closeVarlink answers the calls that are under way and closes the sockets.
func (d *daemon) closeVarlink(ctx context.Context) {
	if d.varlink != nil {
		// It knows now that it ends, and does not take the closed sockets for a failure.
		if err := d.varlink.Shutdown(ctx); err != nil {
			d.log.Warn("the Varlink connections did not end in order", "err", err)
		}
	}
	for _, l := range d.varlinkSockets {
		_ = l.Close() // those that were never served
	}
}

// varlinkNeeded says why somebody at the Varlink door would miss the service. At a
// socket of its own nobody could start it again.
func (d *daemon) varlinkNeeded() string {
	switch {
	case d.varlink == nil:
		return ""
	case !d.varlinkActivated:
		return "Varlink is served at a socket that systemd does not listen at"
	case d.varlink.Connections() > 0:
		return fmt.Sprintf("there are %d Varlink connections", d.varlink.Connections())
	}
	return ""
}
