package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"

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
			switch {
			case name == "":
				return wrongUsage("LOCKSPACE is empty")
			case strings.Contains(name, "/") && len(args) == 2:
				return needs(1, "LOCKSPACE/RESOURCE")(cmd, args)
			case len(args) == 2:
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
	defer func() { _ = c.Close() }()
	label := o.label
	if label == "" {
		label = fmt.Sprintf("dlmlockctl hold (pid %d)", os.Getpid())
	}
	notify("STATUS=Waiting for " + o.want[0].Lockspace + "/" + o.want[0].Resource)
	held, err := a.takeAndWatch(ctx, c, o.want, client.Options{Owner: "dlmlockctl-hold-" + rand.Text(), Label: label,
		Lifetime: client.Process, PID: uint32(os.Getpid()), Wait: o.wait.d})
	if err != nil {
		return aboutWants(ctx, c, err, o.want, nil, o.wait.d)
	}
	defer a.release(held)
	g := held.Grants()[0]
	notify("READY=1", fmt.Sprintf("STATUS=Holding %s/%s in %s, token %d", g.Lockspace, g.Resource, g.Mode, g.Token))
	if a.json && !a.quiet {
		if err := a.encodeJSON(g, ""); err != nil {
			return err
		}
	} else if !a.quiet {
		a.printf("holding %s/%s in %s, token %d\n", visible(g.Lockspace), visible(g.Resource), visible(g.Mode), g.Token)
	}
	select {
	case <-ctx.Done():
		notify("STOPPING=1")
		return nil
	case <-held.Lost():
	}
	loss := held.Loss()
	notify("STATUS=Lost: " + loss.Reason)
	return exitWith(exitLost, loss)
}

// notify tells systemd about the state of this program, if systemd has started it
// (sd_notify(3)). A line feed in a text would begin another assignment.
func notify(assignments ...string) {
	for i, s := range assignments {
		assignments[i] = visible(s)
	}
	_, _ = daemon.SdNotify(false, strings.Join(assignments, "\n")) // without systemd there is nobody to tell
}
