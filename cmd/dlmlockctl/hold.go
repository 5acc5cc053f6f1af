package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

func (a *app) holdCmd() *cobra.Command {
	o := runOptions{wait: waitFlag{-1}}
	var r runFlags
	cmd := &cobra.Command{
		Use:   "hold {LOCKSPACE RESOURCE | LOCKSPACE/RESOURCE} [-m MODE] [-w TIME]",
		Short: "Hold a lock until interrupted, for units of systemd",
		Long: `Takes a lock, waiting for it for as long as necessary, and holds it until this
program is interrupted, which is its orderly end. Then it releases the lock. If this
program is killed, the service does.

Once the lock is held, it tells systemd so (READY=1), so a unit with Type=notify is
active exactly while it holds the lock. If the lock is lost, or somebody else
releases or converts it, the program fails with exit code 76, and so does the unit.
dlmlock@.service is such a unit; dlmlockctl(1) shows how a service runs on one node
at a time with it.`,
		Example: `  dlmlockctl hold vms backup
  systemctl start dlmlock@vms-backup.service   # holds vms/backup`,
		Args:              needs(1, "LOCKSPACE", "RESOURCE"),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := args[0]
			if len(args) == 2 {
				name, r.space, r.names = "", args[0], args[1:]
			}
			if err := r.lock(cmd, name, &o); err != nil {
				return err
			}
			return a.hold(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&r.mode, "mode", "m", "EX", "the mode")
	f.BoolVarP(&r.shared, "shared", "s", false, "hold a shared lock: --mode=PR")
	f.StringVar(&o.label, "label", "", "a text for people: what the lock is for (default: this program and its pid)")
	addWait(f, &o.wait)
	f.Lookup("wait").Usage = "how long to wait for the lock: 90s, 5m, seconds (default: forever)"
	a.completeFlag(cmd, "mode", modes)
	return cmd
}

// hold takes the lock with the lifetime of this process, and keeps it until a signal
// comes or the lock is gone.
//
// Killed before the lock is granted, the call is withdrawn with the connection. Killed
// while it is held, the service releases it, because it is tied to this process.
func (a *app) hold(ctx context.Context, o runOptions) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	h := &hold{a: a, c: c, opts: o, owner: "dlmlockctl-hold-" + rand.Text(), lifetime: client.Process}
	defer func() { _ = h.c.Close() }()
	if h.events, err = c.Watch(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	label := o.label
	if label == "" {
		label = fmt.Sprintf("dlmlockctl hold (pid %d)", os.Getpid())
	}
	notify("STATUS=Waiting for " + o.want[0].Lockspace + "/" + o.want[0].Resource)
	if err := h.takeFor(ctx, label); err != nil {
		if maybeGranted(err) {
			h.withdraw(ctx)
		}
		return aboutWants(ctx, h.c, err, o.want, o.wait.d)
	}
	defer h.end()
	g := h.grants[0]
	notify("READY=1", fmt.Sprintf("STATUS=Holding %s/%s in %s, token %d", g.Lockspace, g.Resource, g.Mode, g.Token))
	if a.json && !a.quiet {
		if err := a.encodeJSON(g, ""); err != nil {
			return err
		}
	} else if !a.quiet {
		a.printf("holding %s/%s in %s, token %d\n", visible(g.Lockspace), visible(g.Resource), visible(g.Mode), g.Token)
	}
	why := h.keep(ctx)
	if why == "" {
		notify("STOPPING=1")
		return nil
	}
	notify("STATUS=Lost: " + why)
	return exitWith(exitLost, fmt.Errorf("the lock on %s/%s is lost: %s", g.Lockspace, g.Resource, why))
}

// takeFor takes the lock for this process.
func (h *hold) takeFor(ctx context.Context, label string) (err error) {
	ctx, cancel := h.a.bound(ctx, h.opts.wait.d)
	defer cancel()
	defer h.a.progress(ctx, h.opts.want, h.opts.wait.d)()
	h.grants, err = take(ctx, h.c, h.opts.want, client.Options{
		Owner: h.owner, Label: label, Lifetime: client.Process, PID: uint32(os.Getpid()), Wait: h.opts.wait.d,
	})
	return err
}

// keep waits until a signal comes, and returns "", or until the lock is gone, and
// returns why.
func (h *hold) keep(ctx context.Context) (why string) {
	for {
		gone, stop := h.askHeld()
		why, again := h.watch(ctx, gone)
		stop()
		if !again {
			return why
		}
		if !h.reconnect(ctx) {
			return ""
		}
		// Nothing was heard meanwhile.
		if why := h.missing(); why != "" {
			return why
		}
	}
}

// watch waits for the end of the lock, a signal, or the end of the connection to the
// bus; then again is true.
func (h *hold) watch(ctx context.Context, gone <-chan string) (why string, again bool) {
	for {
		select {
		case <-ctx.Done():
			return "", false
		case why := <-gone:
			return why, false
		case e, ok := <-h.events:
			if !ok {
				return "", true
			}
			if why := h.lostBy(e); why != "" {
				return why, false
			}
		}
	}
}

// redialEvery is how often a bus that has gone is looked for.
const redialEvery = time.Second

// reconnect waits for the message bus to come back, and reports whether it has; a
// signal ends the waiting. The lock stays meanwhile: it is tied to this process and
// not to the connection.
func (h *hold) reconnect(ctx context.Context) bool {
	if !h.a.quiet {
		fmt.Fprintln(h.a.err, "dlmlockctl: the connection to the message bus is gone; the lock is still held")
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(redialEvery):
		}
		c, err := h.a.connect(ctx)
		if err != nil {
			continue
		}
		events, err := c.Watch(context.WithoutCancel(ctx))
		if err != nil {
			_ = c.Close()
			continue
		}
		_ = h.c.Close()
		h.c, h.events = c, events
		return true
	}
}

// notify tells systemd about the state of this program, if systemd has started it
// (sd_notify(3)). A line feed in a text would begin another assignment.
func notify(assignments ...string) {
	for i, s := range assignments {
		assignments[i] = visible(s)
	}
	_, _ = daemon.SdNotify(false, strings.Join(assignments, "\n")) // without systemd there is nobody to tell
}
