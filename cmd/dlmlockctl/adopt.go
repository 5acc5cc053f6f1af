package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

func (a *app) adoptCmd() *cobra.Command {
	var as client.Adoption
	var uid uint32
	cmd := &cobra.Command{
		Use:   "adopt LOCKSPACE LOCKID [--owner=OWNER] [--label=LABEL] [--uid=UID]",
		Short: "Give an orphan, a lock that no record explains, to an owner",
		Long: `Makes an orphan the persistent lock of an owner, without letting go of it: it
keeps its lockid, its mode and, where its value block tells it, its fencing
token. Find out first who uses what the lock protects.`,
		Example: `  dlmlockctl orphans vms
  dlmlockctl adopt vms 7 --owner=4d4b8f3c-web --label=/img/web.qcow2`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.complete(lockspaces, orphanIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := lockids(args[1:])
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("uid") {
				as.UID = &uid
			}
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				return a.adopt(ctx, c, args[0], ids[0], as)
			})
		},
	}
	cmd.Flags().StringVarP(&as.Owner, "owner", "o", "", "who the lock is for; it is released under this name")
	cmd.Flags().StringVarP(&as.Label, "label", "l", "", "text that tells people what the lock is for")
	cmd.Flags().Uint32Var(&uid, "uid", 0, "the uid of the user whose lock it becomes (default: yours)")
	return cmd
}

func (a *app) adopt(ctx context.Context, c *client.Client, space string, id uint32, as client.Adoption) error {
	orphans, err := chosen(ctx, c, space, []uint32{id})
	if err != nil {
		return err
	}
	o := orphans[0]
	token, err := c.Adopt(ctx, space, o, as)
	if err != nil {
		return about(err, space, o.Resource)
	}
	a.done = fmt.Sprintf("adopted %s/%s %s, lockid %d, token %d", space, o.Resource, o.Mode, id, token)
	return a.show(map[string]any{"lockspace": space, "resource": o.Resource, "lockid": id, "mode": o.Mode, "token": token}, a.say)
}

// chosen returns the orphans with these lockids.
func chosen(ctx context.Context, c *client.Client, space string, ids []uint32) ([]client.Orphan, error) {
	all, err := c.Orphans(ctx, space)
	if err != nil {
		return nil, about(err, space, "")
	}
	var out []client.Orphan
	for _, id := range ids {
		n := len(out)
		for _, o := range all {
			if o.LockID == id {
				out = append(out, o)
			}
		}
		if len(out) == n {
			return nil, exitWith(exitNotThere, fmt.Errorf("%s has no orphan with the lockid %d; \"dlmlockctl orphans\" shows them",
				visible(space), id))
		}
	}
	return out, nil
}

// lockids reads lockids as orphans shows them.
func lockids(args []string) ([]uint32, error) {
	ids := make([]uint32, len(args))
	for i, arg := range args {
		n, err := strconv.ParseUint(arg, 10, 32)
		if err != nil || n == 0 {
			return nil, &usageError{fmt.Sprintf("%q is not a lockid; \"dlmlockctl orphans\" shows them", arg)}
		}
		ids[i] = uint32(n)
	}
	return ids, nil
}

// orphanIDs completes the lockids of the orphans of the lockspace before them.
var orphanIDs = asking(findOrphans)

func findOrphans(ctx context.Context, c *client.Client, args []string) []string {
	var out []string
	orphans, err := c.Orphans(ctx, args[0])
	if err != nil {
		return nil
	}
	for _, o := range orphans {
		what := strings.TrimSpace(o.Mode + " " + visible(o.Resource) + " " + visible(o.Who))
		out = append(out, fmt.Sprintf("%d\t%s", o.LockID, what))
	}
	return out
}
