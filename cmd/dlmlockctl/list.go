package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

// The formats of --output.
const (
	formatTable = "table"
	formatWide  = "wide"
	formatJSON  = "json"
)

// formatFlag is --output. It implements pflag.Value.
type formatFlag struct{ a *app }

// String returns no default: the help text says it.
func (f formatFlag) String() string { return "" }

// Set implements pflag.Value.
func (f formatFlag) Set(s string) error {
	if s != formatTable && s != formatWide && s != formatJSON {
		return wrongUsage("not a format: use table, wide or json (--owner has no short form)")
	}
	f.a.json, f.a.wide = s == formatJSON, s == formatWide
	return nil
}

func (f formatFlag) Type() string { return "FORMAT" }

// column is one column of a table of locks.
type column struct {
	name    string                               // as in --columns; the heading is in upper case
	elastic bool                                 // may be shortened to fit the terminal
	cell    func(l *client.Lock, long bool) cell // long: with --output=wide
}

// lockColumns are all that a list of locks can show.
var lockColumns = []column{
	{"resource", true, func(l *client.Lock, _ bool) cell { return text(l.Lockspace + "/" + l.Resource) }},
	{"mode", false, func(l *client.Lock, _ bool) cell { return text(modes2(l.Mode, l.Wanted)) }},
	{"state", false, func(l *client.Lock, _ bool) cell { return state(l.State) }},
	{"lockid", false, func(l *client.Lock, _ bool) cell { return number(l.LockID) }},
	{"token", false, func(l *client.Lock, _ bool) cell { return tokenCell(l.Token) }},
	{"uid", false, func(l *client.Lock, _ bool) cell { return number(l.UID) }},
	{"pid", false, func(l *client.Lock, _ bool) cell { return tokenCell(uint64(l.PID)) }},
	{"lifetime", false, func(l *client.Lock, _ bool) cell { return text(l.Lifetime) }},
	{"since", false, func(l *client.Lock, long bool) cell { return since(l.Since, long) }},
	{"owner", true, func(l *client.Lock, _ bool) cell { return text(l.Owner) }},
	{"label", true, func(l *client.Lock, _ bool) cell { return text(l.Label) }},
	{"lockspace", true, func(l *client.Lock, _ bool) cell { return text(l.Lockspace) }},
	{"name", true, func(l *client.Lock, _ bool) cell { return text(l.Resource) }},
	{"lock", false, func(l *client.Lock, _ bool) cell { return text(string(l.Lock)) }},
}

var (
	// usualColumns fit into 80 characters on a terminal.
	usualColumns = []string{"resource", "mode", "state", "owner", "since", "label"}
	wideColumns  = []string{"resource", "mode", "state", "lockid", "token", "uid", "pid", "lifetime", "since", "owner",
		"label"}
	// inspectColumns are for locks of a resource that stands above them.
	inspectColumns = []string{"mode", "state", "lockid", "owner", "since", "label"}
)

// listing is how a list is to be shown.
type listing struct {
	columns  []string // --columns; empty: the usual ones
	noLegend bool     // no heading, for scripts
}

// columnNames are those that --columns takes, in the order of lockColumns.
func columnNames() []string {
	var names []string
	for _, c := range lockColumns {
		names = append(names, c.name)
	}
	return names
}

// choose returns the columns to show, or an error for one that does not exist.
func (l *listing) choose(usual, wide []string, isWide bool) ([]string, error) {
	if len(l.columns) == 0 {
		if isWide {
			return wide, nil
		}
		return usual, nil
	}
	for i, name := range l.columns {
		l.columns[i] = strings.ToLower(strings.TrimSpace(name))
		if !slices.Contains(columnNames(), l.columns[i]) {
			e := wrongUsage("--columns: no column %q; use some of %s", name, strings.Join(columnNames(), ","))
			e.guess = closest(l.columns[i], columnNames())
			return nil, e
		}
	}
	return l.columns, nil
}

// lockTable makes a table of locks. Its columns are shortened on a terminal, except
// with --output=wide.
func (p *printer) lockTable(locks []client.Lock, columns []string, noLegend bool) *table {
	t := &table{noLegend: noLegend}
	var shown []column
	for _, name := range columns {
		c := lockColumns[slices.IndexFunc(lockColumns, func(c column) bool { return c.name == name })]
		shown = append(shown, c)
		t.heading = append(t.heading, strings.ToUpper(name))
		if c.elastic && !p.wide {
			t.elastic = append(t.elastic, strings.ToUpper(name))
		}
	}
	for i := range locks {
		row := make([]cell, len(shown))
		for j, c := range shown {
			row[j] = c.cell(&locks[i], p.wide)
		}
		t.add(row...)
	}
	return t
}

// listOptions are the flags of list, as they are typed.
type listOptions struct {
	filter   client.Filter
	listing  listing
	lost     bool
	allNodes bool
}

func (a *app) listCmd() *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use: "list [LOCKSPACE [RESOURCE]] [--all-nodes] [--owner=OWNER] [--uid=UID] [--mode=MODE] [--state=STATE] " +
			"[--lost]",
		Aliases: []string{"ls"},
		Short:   "List the locks of the service on this node",
		Long: `Lists the locks of the service on this node, or with --all-nodes those of the
services on all nodes. A node that can't be asked is named on standard error, and
with --json in "nodes", with the reason.

With --lost, lists instead the locks that were lost lately, the last one first, also
of lockspaces that this node has left.

On a terminal long names are shortened to fit the line; -o wide shows everything.`,
		Example: `  dlmlockctl list vms --owner=$uuid
  dlmlockctl list --lost
  dlmlockctl list --columns=resource,owner --no-legend`,
		SuggestFor:        []string{"locks", "ps", "lslocks"},
		Args:              needs(0, "LOCKSPACE", "RESOURCE"),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.filter.Lockspace, o.filter.Resource = scope(args)
			return o.run(a, cmd)
		},
	}
	o.add(a, cmd)
	return cmd
}

// add defines the flags, and what completes them.
func (o *listOptions) add(a *app, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&o.allNodes, "all-nodes", false, "the locks of the services on all nodes")
	fl.StringVar(&o.filter.Owner, "owner", "", "only of this owner")
	fl.Uint32Var(&o.filter.UID, "uid", 0, "only of this user id")
	fl.StringVarP(&o.filter.Mode, "mode", "m", "", "only in this mode")
	fl.StringVar(&o.filter.State, "state", "", "only in this state: acquiring, held, converting, releasing")
	fl.IntVar(&o.filter.Limit, "limit", 0, "at most this many (default: all)")
	fl.StringSliceVar(&o.listing.columns, "columns", nil,
		"the `COLUMNS` to show: some of "+strings.Join(columnNames(), ","))
	fl.Lookup("columns").DefValue = "" // else the help shows an empty list
	fl.BoolVar(&o.listing.noLegend, "no-legend", false, "without the heading")
	fl.BoolVar(&o.lost, "lost", false, "the locks that were lost lately")
	a.completeFlag(cmd, "owner", owners)
	a.completeFlag(cmd, "mode", modes)
	a.completeFlag(cmd, "state", fixed("acquiring", "held", "converting", "releasing"))
	a.completeFlag(cmd, "columns", fixed(columnNames()...))
}

// run checks what the flags mean together, and lists one of three things: locks of
// this node, locks of all nodes, or losses.
func (o *listOptions) run(a *app, cmd *cobra.Command) error {
	// 0 is a user id (root) and would be a limit, so only Changed tells whether they were given.
	o.filter.HasUID = cmd.Flags().Changed("uid")
	if cmd.Flags().Changed("limit") && o.filter.Limit < 1 {
		return wrongUsage("--limit=%d: use 1 or more", o.filter.Limit)
	}
	if o.lost {
		return o.listLost(a, cmd)
	}
	columns, err := o.listing.choose(usualColumns, wideColumns, a.wide)
	if err != nil {
		return err
	}
	return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
		if o.allNodes {
			return a.listAll(ctx, c, o.filter, columns, o.listing.noLegend)
		}
		return a.list(ctx, c, o.filter, columns, o.listing.noLegend)
	})
}

// scope reads the arguments [LOCKSPACE [RESOURCE]]; "" stands for all.
func scope(args []string) (lockspace, resource string) {
	args = append(slices.Clone(args), "", "")
	return args[0], args[1]
}

// listLost lists the locks that were lost. They have other columns, and no state. The service keeps
// them in memory, and those of lockspaces that were left as well.
func (o *listOptions) listLost(a *app, cmd *cobra.Command) error {
	for _, name := range []string{"mode", "state", "columns", "all-nodes"} {
		if cmd.Flags().Changed(name) {
			return wrongUsage("--%s: not with --lost", name)
		}
	}
	return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
		lost, err := c.Lost(ctx, o.filter)
		if err != nil {
			return about(err, o.filter.Lockspace, o.filter.Resource)
		}
		return a.show(lost, func() {
			if len(lost) == 0 {
				a.none("lost locks")
				return
			}
			t := &table{noLegend: o.listing.noLegend, heading: []string{"RESOURCE", "MODE", "LOST", "OWNER", "LABEL", "REASON"}}
			if !a.wide {
				t.elastic = []string{"RESOURCE", "OWNER", "LABEL", "REASON"}
			}
			for _, l := range lost {
				t.add(text(l.Lockspace+"/"+l.Resource), text(l.Mode), since(l.When, a.wide), text(l.Owner), text(l.Label),
					text(l.Reason))
			}
			t.write(a.out)
		})
	})
}

// list lists the locks of this node. A lockspace that the service does not know is an error, and not an
// empty list, since the name may be a typing error.
func (a *app) list(ctx context.Context, c *client.Client, f client.Filter, columns []string, noLegend bool) error {
	locks, err := c.Locks(ctx, f)
	if err == nil && len(locks) == 0 && f.Lockspace != "" {
		err = known(ctx, c, f.Lockspace)
	}
	if err != nil {
		return about(err, f.Lockspace, f.Resource)
	}
	forgetPIDs(ctx, c, locks)
	return a.show(locks, func() {
		if len(locks) == 0 {
			a.none("locks")
			return
		}
		a.lockTable(locks, columns, noLegend).write(a.out)
	})
}

// known returns an error if the service does not know a lockspace. Its list of
// locks is empty then, as that of a lockspace without locks.
func known(ctx context.Context, c *client.Client, lockspace string) error {
	spaces, err := c.Lockspaces(ctx)
	if err != nil || slices.ContainsFunc(spaces, func(s client.Lockspace) bool { return s.Name == lockspace }) {
		return err
	}
	return &client.Error{Op: "ListLocks", Kind: client.NoSuchLockspace,
		Message: "list " + lockspace + ": the lockspace is not joined here"}
}

// modes2 shows a mode and the one that is waited for.
func modes2(mode, wanted string) string {
	if wanted == "" {
		return mode
	}
	return mode + "->" + wanted
}

// stateColours are for terminals: green needs nothing, yellow changes by itself, red needs somebody.
var stateColours = map[string]colour{
	"held": green, "ready": green,
	"acquiring": yellow, "converting": yellow, "releasing": yellow, "joining": yellow, "leaving": yellow,
	"failed": red, "stopped": red,
}

func state(s string) cell { return cell{visible(s), stateColours[s]} }

// since shows when a lock was granted: the time of day if that was within the last
// day, else the date; both if long.
func since(t time.Time, long bool) cell {
	switch {
	case t.IsZero():
		return cell{}
	case long:
		return clock(t)
	case time.Since(t) < 24*time.Hour:
		return cell{t.Local().Format("15:04:05"), plain}
	}
	return cell{t.Local().Format("2006-01-02"), plain}
}
