package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

// The results of a check, from good to bad.
const (
	checkOK      = "ok"
	checkSkipped = "skipped" // it does not apply
	checkUnknown = "unknown" // it could not be checked
	checkWarning = "warning" // locks work, but something is missing
	checkFailed  = "failed"  // locks do not work, or do not protect
)

// check is the result of one check.
type check struct {
	Name    string `json:"check"`
	Result  string `json:"result"`
	Message string `json:"message"`
	Advice  string `json:"advice,omitempty"` // what to do about it
}

// examination collects the results, and what is known on the way.
type examination struct {
	host   host           // the files that are looked at; a stand-in for tests
	checks []check        // in the order in which they were made
	local  bool           // the service uses its embedded engine, so there is no cluster to check
	status map[string]any // the properties of the service; nil: it could not be asked

	noModule     bool // the kernel's DLM is not loaded
	controldRuns bool // dlm_controld was seen to run
}

// add notes a result. The advice stands by itself, so that a program can show it elsewhere.
func (x *examination) add(name, result, advice, message string, args ...any) {
	x.checks = append(x.checks, check{name, result, fmt.Sprintf(message, args...), advice})
}

func (a *app) doctorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps locks from working, and say what to do",
		Long: `Checks the message bus, the service, polkit, the versions of the services on the
other nodes, the cluster's quorum, dlm_controld, fencing, debugfs, the clock, and the
lockspaces of this node, and says how to fix what is wrong. It changes and starts
nothing. As root it sees more.

The exit code is 0 if nothing has failed, and 1 otherwise. Warnings do not count as
failures.`,
		SuggestFor:        []string{"check", "diagnose", "health"},
		Args:              needs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.doctor(cmd.Context())
		},
	}
}

// doctor makes all checks, also after one has failed: its cause may be what a later one finds.
func (a *app) doctor(ctx context.Context) error {
	x := examination{host: host{root: "/"}}
	x.service(ctx, a)
	x.cluster()
	failed := 0
	for _, c := range x.checks {
		if c.Result == checkFailed {
			failed++
		}
	}
	if err := a.show(x.checks, func() { a.showChecks(x.checks) }); err != nil {
		return err
	}
	if failed > 0 {
		return quietExit(exitFailed)
	}
	return nil
}

// service checks the bus and the service, and asks the service about the rest.
func (x *examination) service(ctx context.Context, a *app) {
	c, err := a.connect(ctx)
	if err != nil {
		x.add("bus", checkFailed, hints[client.NoBus], "%v", err)
		return
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := a.bound(ctx, 0)
	defer cancel()
	// Looking must change nothing: it starts no service, and asks nobody for a password.
	c.AutoStart(false)
	c.AllowInteraction(false)
	view, err := x.way(ctx, c)
	if err != nil || !x.answers(ctx, a, c) {
		return
	}
	x.running()
	if view != nil {
		x.polkit(*view)
	}
	x.nodes(c.Nodes(ctx))
	spaces, err := c.Lockspaces(ctx)
	if err != nil {
		x.add("lockspaces", checkUnknown, "", "the lockspaces can't be listed: %v", err)
		return
	}
	x.lockspaces(spaces)
}

// answers checks that the service answers, and keeps its status for the other checks.
func (x *examination) answers(ctx context.Context, a *app, c *client.Client) bool {
	var err error
	switch x.status, err = c.Status(ctx); {
	case err == nil:
		return true
	case errors.Is(err, client.AccessDenied) && c.Varlink() != "":
		x.add("service", checkFailed, judge(a, nil, err).Hint, "the service can't be asked: %v", err)
	case errors.Is(err, client.AccessDenied):
		x.add("service", checkFailed, "install org.example.DlmLock.conf in /usr/share/dbus-1/system.d, and reload the bus",
			"the policy of the message bus does not let this user ask the service")
	case errors.Is(err, client.NotRunning):
		x.add("service", checkFailed, startHint(a), "the service does not run")
	default:
		x.add("service", checkFailed, `"journalctl -u dlmlockd" tells more; "systemctl restart dlmlockd" loses no lock`,
			"the service does not answer: %v", err)
	}
	return false
}

// way checks how the service is reached. The view is nil if that is not the bus.
func (x *examination) way(ctx context.Context, c *client.Client) (*client.BusView, error) {
	if path := c.Varlink(); path != "" {
		x.add("bus", checkSkipped, "", "the service is asked over Varlink, at %s", path)
		return nil, nil
	}
	view, err := c.View(ctx)
	if err != nil {
		x.add("bus", checkFailed, hints[client.NoBus], "%v", err)
		return nil, err
	}
	x.add("bus", checkOK, "", "the message bus answers")
	x.activation(view)
	return &view, nil
}

// activation checks that a call starts the service.
func (x *examination) activation(v client.BusView) {
	if v.Activated {
		x.add("activation", checkOK, "", "the bus starts the service when it is called")
		return
	}
	x.add("activation", checkWarning,
		"install org.example.DlmLock.service in /usr/share/dbus-1/system-services, and reload the bus",
		"the bus does not start the service when it is called")
}

func (x *examination) text(property string) string {
	s, _ := x.status[property].(string)
	return s
}

// running checks what the service says about itself.
func (x *examination) running() {
	x.local = x.text("Engine") == "local"
	if why := x.text("Degraded"); why != "" {
		x.add("service", checkFailed, `"journalctl -u dlmlockd" tells more; docs/troubleshooting.md has the symptoms`,
			"the service runs, but not well: %s", why)
	} else {
		x.add("service", checkOK, "", "dlmlockd %s runs", x.text("Version"))
	}
	if x.local {
		x.add("engine", checkWarning,
			`for locks of a cluster remove engine = "local" from /etc/dlmlockd.toml and restart the service`,
			"the embedded engine is used: locks hold on this node only")
	} else {
		x.add("engine", checkOK, "", "the kernel's DLM is used")
	}
}

// nodes compares the versions of the services on the other nodes with that of this one.
// What could not be looked at says nothing about the node.
func (x *examination) nodes(nodes []client.Node, err error) {
	switch {
	case err != nil:
		x.add("nodes", checkUnknown, "", "could not look at the services of the other nodes: %v", err)
		return
	case x.local:
		x.add("nodes", checkSkipped, "", "the embedded engine has no other nodes")
		return
	}
	names, others := (&everywhere{Nodes: nodes}).names(), 0
	for _, n := range nodes {
		if n.Self {
			continue
		}
		others++
		switch name := names.node(n.ID); {
		case n.Missing != "":
			x.add(name, checkUnknown, "", "could not look: %s", n.Missing)
		case n.Version == "":
			x.add(name, checkUnknown, "", "could not look: its service does not tell its version")
		case n.Version != x.text("Version"):
			x.add(name, checkWarning, "install the same version on all nodes; an upgrade loses no lock",
				"dlmlockd %s runs there, and %s here", n.Version, x.text("Version"))
		default:
			x.add(name, checkOK, "", "dlmlockd %s runs there, as here", n.Version)
		}
	}
	if others == 0 {
		x.add("nodes", checkUnknown, "", "the service knows of no other node")
	}
}

// polkit checks who may decide that somebody other than root takes locks.
func (x *examination) polkit(v client.BusView) {
	if v.Polkit {
		x.add("polkit", checkOK, "", "polkit decides who may take locks")
		return
	}
	x.add("polkit", checkWarning, "install polkitd, or name a group in /etc/dlmlockd.toml",
		"polkit is not on the bus: only root, and the group in /etc/dlmlockd.toml, may take locks")
}

// lockspaces checks each lockspace.
func (x *examination) lockspaces(spaces []client.Lockspace) {
	if len(spaces) == 0 {
		x.add("lockspaces", checkWarning,
			`"dlmlockctl join NAME" joins one, and lockspaces = ["NAME"] in /etc/dlmlockd.toml does at every start`,
			"this node has joined no lockspace")
	}
	for _, s := range spaces {
		name := "lockspace " + s.Name
		switch {
		case s.Stopped != nil && *s.Stopped:
			x.add(name, checkFailed, stoppedAdvice(s), "it is stopped: %s", s.Reason)
		case s.State == "failed":
			x.add(name, checkFailed, `"dlmlockctl join `+shellWord(s.Name)+`" tries again`, "it can't be used: %s", s.Error)
		case s.State != "ready":
			x.add(name, checkWarning, "wait a moment; "+stoppedAdvice(s), "it is %s", s.State)
		case s.Orphans > 0:
			x.add(name, checkWarning, `"dlmlockctl orphans `+shellWord(s.Name)+`" shows them; "adopt" and "purge" resolve them`,
				"it has %s, locks that no record explains, which keep others out", plural(int(s.Orphans), "orphan"))
		default:
			x.add(name, checkOK, "", "it is ready, with %s", plural(int(s.Locks), "lock"))
		}
	}
}

func stoppedAdvice(s client.Lockspace) string {
	if s.Quorate != nil && !*s.Quorate {
		return `bring nodes back until there is a majority: "corosync-quorumtool -s"`
	}
	return `it goes on by itself when the cluster has recovered; if it does not: "dlm_tool status" and "journalctl -u dlm"`
}

// showChecks shows the results to people: one line each, with the advice below.
func (p *printer) showChecks(checks []check) {
	colours := map[string]colour{checkOK: green, checkWarning: yellow, checkFailed: red, checkUnknown: yellow}
	paint := coloured(p.out)
	counts := map[string]int{}
	for _, c := range checks {
		counts[c.Result]++
		result := fmt.Sprintf("%-8s", c.Result)
		if paint && colours[c.Result] != plain {
			result = string(colours[c.Result]) + result + "\x1b[0m"
		}
		p.printf("%s %s: %s\n", result, visible(c.Name), visible(c.Message))
		if c.Advice != "" {
			p.printf("%9s-> %s\n", "", visible(c.Advice))
		}
	}
	var sum []string
	for _, r := range []string{checkFailed, checkWarning, checkUnknown} {
		switch {
		case counts[r] == 0:
		case r == checkWarning:
			sum = append(sum, plural(counts[r], r))
		default:
			sum = append(sum, fmt.Sprintf("%d %s", counts[r], r))
		}
	}
	if len(sum) == 0 {
		sum = append(sum, "all is well")
	}
	p.printf("%s\n", strings.Join(sum, ", "))
}
