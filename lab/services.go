package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// busPolicyDir is where packages install their bus policy.
const busPolicyDir = "/usr/share/dbus-1/system.d"

// StartBus starts the system bus in the node (or reloads one that runs) with the
// given policy files of the host and returns when it takes connections, at
// unix:path=/run/dbus/system_bus_socket.
func (n *Node) StartBus(ctx context.Context, policies ...string) error {
	for _, p := range policies {
		if err := n.Push(ctx, p, filepath.Join(busPolicyDir, filepath.Base(p))); err != nil {
			return err
		}
	}
	if n.cluster.config.Systemd {
		if err := n.WaitSystemd(ctx); err != nil {
			return err
		}
		_, err := n.Run(ctx, "busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus",
			"org.freedesktop.DBus", "ReloadConfig")
		return err
	}
	// One that runs already reads the policy again.
	_, err := n.Shell(ctx,
		"dbus-send --system --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ReloadConfig "+
			">/dev/null 2>&1 || "+
			"{ mkdir -p /run/dbus && exec dbus-daemon --system --fork --nopidfile --nosyslog; }")
	return err
}

// WaitSystemd waits until systemd has reached the lab's target: basic.target
// and the system bus's socket.
func (n *Node) WaitSystemd(ctx context.Context) error {
	if !n.cluster.config.Systemd {
		return errors.New("the node runs without systemd")
	}
	return n.retry(ctx, func() error {
		out, err := n.Run(ctx, "systemctl", "is-active", "lab.target")
		if err != nil {
			return fmt.Errorf("lab.target is %s: %w", strings.TrimSpace(out), err)
		}
		return nil
	})
}
