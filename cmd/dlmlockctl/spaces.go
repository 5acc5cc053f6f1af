package main

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

func (a *app) lockspacesCmd() *cobra.Command {
	return &cobra.Command{
		Use:               "lockspaces",
		Short:             "List the lockspaces that this node has joined",
		Args:              needs(0),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				spaces, err := c.Lockspaces(ctx)
				if err != nil {
					return err
				}
				return a.show(spaces, func() {
					if len(spaces) == 0 {
						a.none("lockspaces")
						return
					}
					a.spaceTable(spaces, namesOf(ctx, c))
				})
			})
		},
	}
}

func (p *printer) spaceTable(spaces []client.Lockspace, names nodeNames) {
	t := table{heading: []string{"LOCKSPACE", "STATE", "LOCKS", "ORPHANS", "NODES", "REMARK"}}
	if !p.wide {
		t.elastic = []string{"LOCKSPACE", "NODES", "REMARK"}
	}
	for _, s := range spaces {
		st, remark := s.State, s.Error
		if s.Stopped != nil && *s.Stopped {
			st, remark = "stopped", s.Reason
		}
		orphans := number(s.Orphans)
		if s.Orphans < 0 { // they could not be counted
			orphans = cell{}
		} else if s.Orphans > 0 {
			orphans.colour = red
		}
		t.add(text(s.Name), state(st), number(s.Locks), orphans,
			text(names.list(s.Members)), text(remark))
	}
	t.write(p.out)
}

func (a *app) joinCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "join LOCKSPACE",
		Short: "Make this node a member of a lockspace",
		Long: `Makes this node a member of a lockspace, which then belongs to dlmlockd alone. It
is no error if the node is a member already. At every start of the service the
node joins again the lockspaces that hold locks or that /etc/dlmlockd.toml names.`,
		Args:              needs(1, "LOCKSPACE"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				if err := c.Join(ctx, args[0]); err != nil {
					return about(err, args[0], "")
				}
				a.done = "joined " + args[0]
				return a.show(map[string]any{"lockspace": args[0], "joined": true}, a.say)
			})
		},
	}
}

func (a *app) leaveCmd() *cobra.Command {
	var force, all bool
	cmd := &cobra.Command{
		Use:   "leave {LOCKSPACE | --all} [--force]",
		Short: "Make this node leave a lockspace",
		Long: `Makes this node leave a lockspace, or all of them. While the service holds locks
in one of them it leaves none, unless --force is given, which loses those locks.
Even with --force the service refuses to leave while another process uses the
lockspace, or while there are orphans in it.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return needs(0)(cmd, args)
			}
			return needs(1, "LOCKSPACE")(cmd, args)
		},
		ValidArgsFunction: a.complete(lockspaces),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				if all {
					return a.leaveAll(ctx, c, force)
				}
				if err := c.Leave(ctx, args[0], force); err != nil {
					return aboutLeave(err, args[0], force)
				}
				a.done = "left " + args[0]
				return a.show(map[string]any{"lockspace": args[0], "left": true}, a.say)
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "leave although the service holds locks in it; they are lost")
	cmd.Flags().BoolVar(&all, "all", false, "leave all lockspaces")
	return cmd
}

// aboutLeave is about for a leave. What is in the way of --force is not a lock of
// the service.
func aboutLeave(err error, space string, force bool) error {
	f := &failure{err: err, lockspace: space}
	if force && kindOf(err) == client.LockspaceInUse {
		f.hint = `"dlmlockctl orphans %L" shows the orphans, which "dlmlockctl adopt" and "dlmlockctl purge" resolve`
	}
	return f
}

// leaveAll leaves all lockspaces. It looks for locks first, so that a refusal for
// one lockspace leaves the others as they are. If locks come in between, the
// service refuses.
func (a *app) leaveAll(ctx context.Context, c *client.Client, force bool) error {
	spaces, err := c.Lockspaces(ctx)
	if err != nil {
		return err
	}
	if !force {
		var held []string
		for _, s := range spaces {
			if s.Locks > 0 {
				held = append(held, fmt.Sprintf("%s (%s)", visible(s.Name), plural(int(s.Locks), "lock")))
			}
		}
		if len(held) > 0 {
			return exitWith(exitContradicts, fmt.Errorf("no lockspace left: locks are held in %s; "+
				"release them, or lose them with --force", strings.Join(held, ", ")))
		}
	}
	left := []string{}
	for _, s := range spaces {
		if err := c.Leave(ctx, s.Name, force); err != nil {
			return aboutLeave(err, s.Name, force)
		}
		left = append(left, s.Name)
	}
	if len(left) > 0 {
		a.done = "left " + strings.Join(left, ", ")
	}
	return a.show(map[string]any{"left": left}, func() {
		for _, name := range left {
			a.printf("left %s\n", visible(name))
		}
	})
}

func (a *app) orphansCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "orphans LOCKSPACE",
		Short: "List orphans: locks on this node that no record explains",
		Long: `Lists the persistent locks on this node that belong to no process and are in no
record of the service. The service never touches them by itself.`,
		Args:              needs(1, "LOCKSPACE"),
		ValidArgsFunction: a.complete(lockspaces),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				orphans, err := c.Orphans(ctx, args[0])
				if err != nil {
					return about(err, args[0], "")
				}
				return a.show(orphans, func() {
					if len(orphans) == 0 {
						a.none("orphans")
						return
					}
					a.orphanTable(orphans)
				})
			})
		},
	}
}

// orphanTable shows every name in full, because purge removes what it shows, and with it what the value
// blocks say about who took the orphans.
func (p *printer) orphanTable(orphans []client.Orphan) {
	t := table{heading: []string{"LOCKID", "RESOURCE", "MODE", "WHO", "TOKEN"}}
	for _, o := range orphans {
		token := text("")
		if o.Token != 0 {
			token = number(o.Token)
		}
		t.add(number(o.LockID), text(o.Resource), text(o.Mode), text(o.Who), token)
	}
	t.write(p.out)
}

func (a *app) purgeCmd() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "purge LOCKSPACE [LOCKID...] [--yes]",
		Short: "Remove orphans, locks that no record explains",
		Long: `Shows the orphans of a lockspace, or only those with the lockids given, asks for
confirmation, and removes them if they are still exactly the ones shown. What they
protected is no longer protected: make sure first that nobody uses it.`,
		Args:              atLeast(1, "LOCKSPACE"),
		ValidArgsFunction: a.repeat(1, lockspaces, orphanIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := lockids(args[0], args[1:])
			if err != nil {
				return err
			}
			return a.purge(cmd.Context(), args[0], ids, yes)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "remove them without asking")
	return cmd
}

// purge removes some orphans, or, with none named, all. It removes exactly what it has
// shown: the service refuses if the orphans have changed meanwhile.
func (a *app) purge(ctx context.Context, space string, some []uint32, yes bool) error {
	c, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	orphans, err := a.toPurge(ctx, c, space, some)
	if err != nil {
		return err
	}
	if len(orphans) > 0 && !yes {
		if err := a.confirm(fmt.Sprintf("Remove %s of %s?", plural(len(orphans), "orphan"), visible(space))); err != nil {
			return err
		}
	}
	// By lockid, not "all": the service removes what was shown, and refuses if there are others now.
	ids := make([]uint32, len(orphans))
	for i, o := range orphans {
		ids[i] = o.LockID
	}
	remove := c.Purge
	if len(some) > 0 {
		remove = c.PurgeSome
	}
	var n uint32
	if len(ids) > 0 {
		// The time of the call begins here: the person may have thought long.
		act, cancel := a.bound(ctx, 0)
		defer cancel()
		if n, err = remove(act, space, ids); err != nil {
			return about(err, space, "")
		}
	}
	a.done = fmt.Sprintf("removed %s of %s", plural(n, "orphan"), space)
	return a.show(map[string]any{"lockspace": space, "purged": n}, a.say)
}

// toPurge looks for the orphans that are to be removed, and shows them. It fails if
// they could not be shown (a full disk, a pipe that was closed), because nothing is
// removed that nobody has seen.
func (a *app) toPurge(ctx context.Context, c *client.Client, space string, some []uint32) ([]client.Orphan, error) {
	look, cancel := a.bound(ctx, 0)
	defer cancel()
	var orphans []client.Orphan
	var err error
	if len(some) > 0 {
		orphans, err = chosen(look, c, space, some)
	} else if orphans, err = c.Orphans(look, space); err != nil {
		err = about(err, space, "")
	}
	if err != nil {
		return nil, err
	}
	if !a.json && !a.quiet && len(orphans) > 0 {
		a.orphanTable(orphans)
	}
	return orphans, a.out.err
}

// confirm asks a person on a terminal, and fails without a terminal. No answer is no consent to
// what can't be undone, so a script has to give --yes.
func (a *app) confirm(question string) error {
	if !isTerminal(a.in) || a.json {
		return wrongUsage("nothing removed, because there is nobody to ask; --yes removes what \"dlmlockctl orphans\" shows")
	}
	fmt.Fprintf(a.err, "%s [y/N] ", question)
	line, _ := bufio.NewReader(a.in).ReadString('\n') // an end of input is a no
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return fmt.Errorf("nothing removed")
}
