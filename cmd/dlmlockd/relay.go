package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/dlmlock/dlmlockd/peers"
	"github.com/dlmlock/dlmlockd/peers/cpg"
)

// relayCPG is dlmlockd --relay-cpg: it copies messages between the service and corosync, at the
// socket that systemd passes on, or else at one that it makes. It is a process of its own, so that
// the service needs neither libcpg nor the network namespace of corosync (package cpg).
func relayCPG(ctx context.Context, log *slog.Logger) error {
	inherited := inheritDescriptors()
	var l net.Listener
	var err error
	if found := inherited.take("cpg", "dlmlockd-cpg.socket"); len(found) > 0 {
		l = found[0]
	}
	inherited.closeRest(log)
	if l == nil {
		if l, err = net.Listen("unixpacket", peers.RelaySocket); err != nil {
			return fmt.Errorf("listen for the service: %w", err)
		}
	}
	socket, ok := l.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("the socket that systemd passes on is of type %T, not a unix socket", l)
	}
	return cpg.Serve(ctx, socket, cpg.Library, log)
}
