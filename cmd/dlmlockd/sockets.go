package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/internal/filetype"
	"github.com/dlmlock/dlmlockd/varlink"
)

// inherited are the descriptors that systemd has passed on, by their names
// (sd_listen_fds(3)).
type inherited struct {
	// sockets are those that systemd listens at, by FileDescriptorName=, which is the
	// unit's name unless the unit says otherwise.
	sockets map[string][]net.Listener
	// kept are those that an earlier process has put into the store.
	kept []*os.File
	// odd are those that are neither.
	odd []string
}

// inheritDescriptors takes them over: no process that this one starts gets them.
func inheritDescriptors() inherited {
	all := inherited{sockets: map[string][]net.Listener{}}
	for _, f := range activation.Files(true) {
		if varlink.IsKept(f.Name()) {
			all.kept = append(all.kept, f)
			continue
		}
		if l, err := net.FileListener(f); err == nil {
			all.sockets[f.Name()] = append(all.sockets[f.Name()], l)
		} else {
			all.odd = append(all.odd, fmt.Sprintf("%s (%v)", f.Name(), err))
		}
		_ = f.Close() // FileListener has made a copy
	}
	return all
}

// single reports whether one of the sockets of these names is a connection, not one at which to listen.
func (i *inherited) single(names ...string) bool {
	for _, name := range names {
		for _, l := range i.sockets[name] {
			if u, ok := l.(*net.UnixListener); ok && !listens(u) {
				return true
			}
		}
	}
	return false
}

// take returns the sockets of these names.
func (i *inherited) take(names ...string) (found []net.Listener) {
	for _, name := range names {
		found = append(found, i.sockets[name]...)
		delete(i.sockets, name)
	}
	return found
}

// has reports whether there are sockets of these names.
func (i *inherited) has(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return len(i.sockets[name]) > 0 })
}

// checkDoors finds the mistakes in the command line that keep callers out, before anything is touched.
// Whether somebody else listens at a socket shows only when the state directory is locked.
func (o *options) checkDoors(from *inherited) error {
	libvirt := from.has(virtlockdNames...)
	switch {
	case from.single(varlinkNames...):
		return errSingle
	case o.Bus == noBus && o.varlink == "" && o.Virtlockd.Socket == "" && !libvirt && !from.has(varlinkNames...):
		return &usageError{"--bus=none: nobody could call the service; give it --varlink=PATH"}
	}
	if err := o.checkSocket("varlink", o.varlink); err != nil || libvirt {
		return err
	}
	return o.checkSocket("virtlockd", o.socket)
}

// checkSocket reports why there can be no socket at the path that a flag gives; "": it gives none.
func (o *options) checkSocket(flag, path string) error {
	if path == "" {
		return nil
	}
	bad := func(format string, args ...any) error {
		return &usageError{fmt.Sprintf("--%s=%s: ", flag, path) + fmt.Sprintf(format, args...)}
	}
	dir := filepath.Dir(path)
	in, err := os.Stat(dir)
	at, missing := os.Lstat(path)
	switch {
	case len(path) > config.MaxSocketPath:
		return bad("the path of a socket has at most %d bytes", config.MaxSocketPath)
	case errors.Is(err, fs.ErrNotExist) && !within(dir, o.StateDir):
		return bad("there is no directory %s", dir)
	case err == nil && !in.IsDir():
		return bad("%s is not a directory", dir)
	case missing == nil && at.Mode().Type() != fs.ModeSocket:
		return bad("there is a %s, not a socket", filetype.Name(at.Mode()))
	}
	return nil
}

// within reports whether the state directory is dir or below it: then it is made before the socket.
func within(dir, stateDir string) bool {
	dir, err := filepath.Abs(dir)
	return err == nil && strings.HasPrefix(filepath.Clean(stateDir)+"/", dir+"/")
}

// vacate makes room for a socket at a path where a program that has ended has left one
// behind. It returns false if another program listens there. Two services can't do this at the
// same time: the state directory is locked by then.
func vacate(path string) bool {
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		_ = conn.Close()
		return false
	case errors.Is(err, unix.EAGAIN): // somebody listens, and more wait there than it takes
		return false
	case !errors.Is(err, unix.ECONNREFUSED):
		return true // nothing is there, or it can't be told what; making a socket there tells why
	}
	// Nothing but a socket is removed: the path may be a mistake.
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		_ = os.Remove(path)
	}
	return true
}

// closeRest closes what nobody has taken: a client would wait there for ever.
func (i *inherited) closeRest(log *slog.Logger) {
	for name, listeners := range i.sockets {
		log.Error("systemd passes on a socket that the service has no use for; "+
			"FileDescriptorName= in its unit must be varlink, virtlockd or cpg", "name", name)
		for _, l := range listeners {
			_ = l.Close()
		}
	}
	for _, name := range i.odd {
		log.Error("systemd passes on a descriptor that the service has no use for", "name", name)
	}
}
