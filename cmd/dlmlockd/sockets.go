package main

import (
	"log/slog"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// sockets are those that systemd has passed on, by FileDescriptorName=
// (sd_listen_fds(3)), which is the unit's name unless the unit says otherwise.
type sockets map[string][]net.Listener

// inheritedSockets takes them over: no process that this one starts gets them.
func inheritedSockets() (sockets, error) {
	all, err := activation.ListenersWithNames()
	return all, err
}

// take returns the sockets of these names.
func (s sockets) take(names ...string) (found []net.Listener) {
	for _, name := range names {
		found = append(found, s[name]...)
		delete(s, name)
	}
	return found
}

// closeRest closes what nobody has taken: a client would wait there for ever.
func (s sockets) closeRest(log *slog.Logger) {
	for name, listeners := range s {
		log.Error("systemd passes on a socket that the service has no use for; "+
			"FileDescriptorName= in its unit must be varlink or virtlockd", "name", name)
		for _, l := range listeners {
			if l != nil {
				_ = l.Close()
			}
		}
	}
}
