package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	godbus "github.com/godbus/dbus/v5"
	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

func (a *app) monitorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "monitor [LOCKSPACE [RESOURCE]]",
		Short: "Show what happens, until interrupted",
		Long: `Shows what happens to the locks of the service on this node, one line for each
event: locks granted, waited for, converted, released and lost. Without arguments
it also shows lockspaces that are joined, left, stopped and recovered, changes of
the service's state, and its start and end. It runs until it is interrupted, which
is its orderly end.

It looks at the locks every second: a lock that is taken and released in between is
not shown; "history" shows it. The bus shows lockspaces only to root and to those
whom its policy lets see them.

With --json each line is one object; dlmlockctl(1) describes it.`,
		SuggestFor:        []string{"watch", "events", "follow", "tail"},
		Args:              needs(0, "LOCKSPACE", "RESOURCE"),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			var f client.Filter
			f.Lockspace, f.Resource = scope(args)
			return a.monitor(cmd.Context(), f)
		},
	}
}

func (a *app) monitor(ctx context.Context, f client.Filter) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	events, err := c.Watch(ctx)
	if err != nil {
		return err
	}
	changes, running, err := a.changes(ctx, f)
	if err != nil {
		return about(err, f.Lockspace, f.Resource)
	}
	if !a.quiet {
		tellWatching(a.err, c, running)
	}
	lost := losses{}
	names := namesNow(ctx, a.connect)
	for {
		e, ok := client.Event{}, true
		select {
		case e, ok = <-events:
		case e = <-changes:
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case !ok:
			return &client.Error{Op: "monitor", Kind: client.NoBus, Message: "the connection to the message bus is gone"}
		case !concerns(e, f), lost.known(e):
			continue
		case e.Kind == client.ServiceStarted:
			names = namesNow(ctx, a.connect) // the cluster may have other nodes now
		}
		if err := a.showEvent(e, names); err != nil {
			return nil // a.out remembers the error
		}
	}
}

// tellWatching says what is watched, and that nothing happens there yet if the service does not run.
func tellWatching(to io.Writer, c *client.Client, running bool) {
	what := client.Name
	if path := c.Varlink(); path != "" {
		what += " at " + visible(path)
	}
	fmt.Fprintln(to, "watching "+what)
	if !running {
		fmt.Fprintln(to, "the service does not run; waiting until it starts")
	}
}

// losses has the locks whose loss has been shown. The service reports a loss at once to those
// who may see it, and a second later the list of locks (watchLocks) lacks the same lock.
type losses map[godbus.ObjectPath]bool

// mostLost is how many losses are remembered. If there are more, a few may be shown twice.
const mostLost = 10000

// known reports whether an event adds nothing to a loss that was shown before. It remembers the
// loss of a lock.
func (lost losses) known(e client.Event) bool {
	if e.Kind != client.LockLost && e.Kind != lockReleased {
		return false
	}
	known := lost[e.Lock]
	if e.Kind == client.LockLost && !known {
		if len(lost) > mostLost {
			clear(lost)
		}
		lost[e.Lock] = true
	}
	return known
}

// changes watches the locks, over a connection of its own: the answers that it gets
// must not hold up the signals. The service is not started for that.
func (a *app) changes(ctx context.Context, f client.Filter) (<-chan client.Event, bool, error) {
	c, err := a.connect(ctx)
	if err != nil {
		return nil, false, err
	}
	context.AfterFunc(ctx, func() { _ = c.Close() })
	c.AutoStart(false)
	return watchLocks(ctx, c, f)
}

// concerns reports whether an event is about what is watched.
func concerns(e client.Event, f client.Filter) bool {
	switch {
	case f.Lockspace == "", e.Kind == client.ServiceStarted, e.Kind == client.ServiceStopped:
		return true
	case e.Kind == client.StatusChanged, e.Lockspace != "" && e.Lockspace != f.Lockspace:
		return false
	}
	return f.Resource == "" || e.Resource == f.Resource
}

func (a *app) showEvent(e client.Event, names nodeNames) error {
	if a.json {
		return a.encodeJSON(details(e), "")
	}
	_, err := fmt.Fprintln(a.out, eventLine(e, names))
	return err
}

// eventLine describes an event to people.
func eventLine(e client.Event, names nodeNames) string {
	parts := []string{clock(e.Time).text, string(e.Kind)}
	name := e.Lockspace
	if e.Resource != "" {
		name = strings.TrimPrefix(e.Lockspace+"/"+e.Resource, "/")
	}
	for _, s := range []string{name, e.Mode, e.State} {
		if s != "" {
			parts = append(parts, visible(s))
		}
	}
	if e.Owner != "" {
		parts = append(parts, "owner "+visible(e.Owner))
	}
	if e.Label != "" {
		parts = append(parts, "("+visible(e.Label)+")")
	}
	if e.Node != 0 {
		parts = append(parts, "for "+names.node(e.Node))
	}
	for _, k := range slices.Sorted(maps.Keys(e.Details)) {
		value := e.Details[k]
		if members, ok := value.([]uint32); ok {
			value = "[" + names.list(members) + "]"
		}
		parts = append(parts, visible(fmt.Sprintf("%s=%v", k, value)))
	}
	line := strings.Join(parts, " ")
	if e.Reason != "" {
		line += ": " + visible(e.Reason)
	}
	return line
}
