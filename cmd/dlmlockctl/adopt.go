package main

import (
	"context"
	"fmt"
	"slices"
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
		Short: "Give an orphan to an owner",
		Long: `Makes an orphan, which is a lock that no record explains, the persistent lock of
an owner. It stays locked throughout, and keeps its lockid, its mode and, if its
value block has it, its fencing token. Find out first who uses what the lock
protects.`,
		Example: `  dlmlockctl orphans vms
  dlmlockctl adopt vms 7 --owner=4d4b8f3c-web --label=/img/web.qcow2`,
		Args:              needs(2, "LOCKSPACE", "LOCKID"),
		ValidArgsFunction: a.complete(lockspaces, orphanIDs),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids, err := lockids(args[0], args[1:])
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
	cmd.Flags().StringVar(&as.Owner, "owner", "", "who the lock is for; it is released under this name")
	cmd.Flags().StringVar(&as.Label, "label", "", "a text for people: what the lock is for")
	cmd.Flags().Uint32Var(&uid, "uid", 0, "the user id of the user whose lock it becomes (default: yours)")
	return cmd
}

// adopt looks the orphan up first, because the service compares its resource and mode: if the
// lockid is reused between the look-up and the call, nothing is adopted.
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
	return a.show(lockResult{space, o.Resource, id, o.Mode, token}, a.say)
}

// chosen returns the orphans with these lockids, in the order of the arguments. If one is missing
// the whole command fails, because the others may not be what was meant either.
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
			return nil, exitWith(exitNotThere, fmt.Errorf("%s has no orphan with the lockid %d; "+
				"\"dlmlockctl orphans %s\" shows those that it has", visible(space), id, shellWord(space)))
		}
	}
	return out, nil
}

// lockids reads lockids as "orphans" shows them.
func lockids(lockspace string, args []string) ([]uint32, error) {
	ids := make([]uint32, len(args))
	for i, arg := range args {
		n, err := strconv.ParseUint(arg, 10, 32)
		if err != nil || n == 0 {
			return nil, wrongUsage("%q is not a lockid; \"dlmlockctl orphans %s\" shows those of the orphans", arg,
				shellWord(lockspace))
		}
		ids[i] = uint32(n)
	}
	return ids, nil
}

// orphanIDs completes the lockids of the orphans of the lockspace that the first
// argument names, except those that are arguments already.
var orphanIDs = asking(findOrphans)

func findOrphans(ctx context.Context, c *client.Client, args []string) []string {
	orphans, err := c.Orphans(ctx, args[0])
	if err != nil {
		return nil
	}
	var out []string
	for _, o := range orphans {
		id := strconv.FormatUint(uint64(o.LockID), 10)
		if !slices.Contains(args[1:], id) {
			what := strings.TrimSpace(o.Mode + " " + visible(o.Resource) + " " + visible(o.Who))
			out = append(out, id+"\t"+what)
		}
	}
	return out
}
