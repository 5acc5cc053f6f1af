package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/varlink/wire"
	"github.com/dlmlock/dlmlockd/virtlockd"
)

// virtlockdNames are the names of the sockets for libvirt's own lock driver that are passed on.
var virtlockdNames = []string{"virtlockd", "virtlockd.socket"}

// openVirtlockd opens the door for libvirt's own lock driver, if there is a socket
// for it: from systemd, by --virtlockd, or by the configuration. Its clients have no
// timeout, so it answers from now on, whether or not the service is ready.
func (d *daemon) openVirtlockd(inherited []net.Listener) error {
	listeners := inherited
	if path := d.opts.Config.Virtlockd.Socket; path != "" && len(inherited) == 0 {
		l, err := listenForLibvirt(path)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	if len(listeners) == 0 {
		return nil
	}
	d.libvirt = virtlockd.New(virtlockd.Config{
		Settings: virtlockdSettings(d.opts.Config), Instance: d.file.Header().Instance, Start: d.watcher.Start,
		MaxConnections: connectionsOf(virtlockd.DefaultMaxConnections), Reserved: process.Reserved, Log: d.log,
	})
	for _, l := range listeners {
		d.log.Info("libvirt's lock driver is served", "path", l.Addr().String())
		go func() {
			if err := d.libvirt.Serve(l); err != nil {
				d.log.Error("libvirt's lock driver is not served any more; restart the service, which loses no lock", "err", err)
			}
		}()
	}
	return nil
}

func virtlockdSettings(c config.Config) virtlockd.Settings {
	return virtlockd.Settings{Lockspace: c.Virtlockd.Lockspace, Directories: c.Virtlockd.Lockspaces,
		Timeout: c.Virtlockd.Timeout, Helper: c.Virtlockd.Helper}
}

// listenForLibvirt makes a socket. It does not take the place of another program.
func listenForLibvirt(path string) (net.Listener, error) {
	bad := func(text string, err error) error {
		return &config.Error{File: "configuration", Key: "virtlockd.socket", Text: text, Err: err}
	}
	if !vacate(path) {
		return nil, bad(fmt.Sprintf("another program, probably virtlockd, listens at %s; stop virtlockd.service and "+
			"virtlockd.socket", path), nil)
	}

	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if errors.Is(err, unix.EROFS) {
		return nil, bad(fmt.Sprintf("%v: the unit may not write there; have systemd make the socket (virtlockd-socket "+
			"enable) "+
			"and leave the key out", err), err)
	}
	switch {
	case wire.IsScarcity(err):
		return nil, err // which is no mistake in the configuration
	case err != nil:
		return nil, bad(err.Error(), err)
	}
	return l, nil
}

// closeVirtlockd ends the door. Calls that the service has are answered first. It may be called again.
func (d *daemon) closeVirtlockd() error {
	if d.libvirt == nil {
		return nil
	}
	return d.libvirt.Close()
}

// lockspaces are those that the service is to join: the configured ones, and those
// that libvirt's lock driver needs, if it is served.
func (d *daemon) lockspaces(o options) []string {
	all := slices.Clone(o.Lockspaces)
	if d.libvirt == nil {
		return all
	}
	for _, name := range o.Config.Virtlockd.All() {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
