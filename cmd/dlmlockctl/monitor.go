package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

func (a *app) monitorCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "monitor",
		Short: "Show what happens, until interrupted",
		Long: `Shows what the service says unasked, one line for each: locks lost, lockspaces
joined, left, stopped and recovered, changes of its status, its own start and
end. Runs until interrupted, which is its orderly end. The bus shows lost locks
and lockspaces only to root and to whom its policy lets see them.

With --json each line is one object: time, event (lock-lost, blocking,
lockspace-changed, status-changed, service-started, service-stopped) and, as
far as they apply, lock, lockspace, resource, mode, node, reason, state, details.`,
		Args:              needs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, err := a.connect(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			events, err := c.Watch(ctx)
			if err != nil {
				return err
			}
			if !a.quiet {
				fmt.Fprintln(a.err, "watching "+client.Name)
			}
			for e := range events {
				if a.json {
					err = a.encodeJSON(details(e), "")
				} else {
					_, err = fmt.Fprintln(a.out, eventLine(e))
				}
				if err != nil {
					return nil // a.out remembers
				}
			}
			if ctx.Err() != nil {
				return nil
			}
			return &client.Error{Op: "monitor", Kind: client.NoBus, Message: "the connection to the message bus is gone"}
		},
	}
}

// eventLine is an event for people.
func eventLine(e client.Event) string {
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
	if e.Node != 0 {
		parts = append(parts, fmt.Sprintf("for node %d", e.Node))
	}
	for _, k := range slices.Sorted(maps.Keys(e.Details)) {
		parts = append(parts, visible(fmt.Sprintf("%s=%v", k, e.Details[k])))
	}
	line := strings.Join(parts, " ")
	if e.Reason != "" {
		line += ": " + visible(e.Reason)
	}
	return line
}
