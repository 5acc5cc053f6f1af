package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
)

func (a *app) acquireCmd() *cobra.Command {
	var o client.Options
	var wait waitFlag
	cmd := &cobra.Command{
		Use:        "acquire LOCKSPACE RESOURCE MODE [LOCKSPACE RESOURCE MODE]... [--owner=OWNER] [--wait=TIME]",
		Short:      "Take locks: all of those named, or none",
		SuggestFor: []string{"lock", "take", "get"},
		Long: `Takes locks: all of those named, or none.

With --owner, acquiring again what the owner already holds succeeds and changes
nothing, so a script that is started again can simply acquire again.`,
		Example: `  dlmlockctl acquire vms disk1 EX --owner=$uuid --label=/dev/vg/disk1
  dlmlockctl acquire vms disk1 EX vms disk2 EX --owner=$uuid --wait=1m`,
		Args: func(_ *cobra.Command, args []string) error {
			return completeLocks(args)
		},
		ValidArgsFunction: a.repeat(0, lockspaces, resources, modes),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Wait = wait.d
			return a.acquire(cmd.Context(), wants(args), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Owner, "owner", "", "who the lock is for, for example the UUID of a virtual machine")
	f.StringVar(&o.Label, "label", "", "a text for people: what the lock is for")
	f.StringVar(&o.Lifetime, "lifetime", "", "what ends the lock: persistent (only a release; the default) or process")
	f.Uint32Var(&o.PID, "pid", 0, "with --lifetime=process: the process whose end releases the lock")
	f.StringVar(&o.OnLost, "on-lost", "", "the helper to run if the lock is lost; dlmlockd.toml names the helpers")
	f.StringVar(&o.OnLostData, "on-lost-data", "", "the value of DLM_DATA in the helper's environment")
	valueFlag(cmd, &o.Value)
	addWait(f, &wait)
	a.completeFlag(cmd, "lifetime", fixed("persistent", "process"))
	a.completeFlag(cmd, "owner", owners)
	return cmd
}

// hexFlag is the bytes of a lock value block, in hexadecimal.
type hexFlag struct{ b *[]byte }

// String returns no default: without the flag nothing is written.
func (h hexFlag) String() string { return "" }

// Set implements pflag.Value.
func (h hexFlag) Set(s string) error {
	b, err := hex.DecodeString(s)
	if err != nil {
		return errors.New("not hexadecimal, two digits for each byte, such as 01ff")
	}
	*h.b = b
	return nil
}

func (h hexFlag) Type() string { return "HEX" }

// valueFlag adds --value.
func valueFlag(cmd *cobra.Command, to *[]byte) {
	cmd.Flags().Var(hexFlag{to}, "value",
		"in a lockspace for raw values: what to write into the lock value block, in hexadecimal")
}

// acquire takes locks that outlive this program, so what can't outlive it is refused: a lock that hangs
// on its connection, or on its own process.
func (a *app) acquire(ctx context.Context, want []client.Want, o client.Options) error {
	if o.Lifetime == client.Connection {
		return wrongUsage("--lifetime=connection: the lock would end with this program; use \"dlmlockctl run\", " +
			"or --lifetime=process with --pid")
	}
	if o.Lifetime == client.Process && o.PID == 0 {
		return wrongUsage("--lifetime=process needs --pid, since this program itself ends at once")
	}
	if err := namedTwice(want, o.Owner != ""); err != nil {
		return err
	}
	return a.with(ctx, o.Wait, func(ctx context.Context, c *client.Client) error {
		defer a.progress(ctx, want, nil, o.Wait)()
		grants, err := take(ctx, c, want, o)
		if err != nil {
			return aboutWants(ctx, c, err, want, nil, o.Wait)
		}
		// Noted before anything is written: if the output is lost, the error says what is held.
		a.done, a.undo = held(grants)
		return a.show(grants, func() {
			t := table{heading: []string{"LOCKSPACE", "RESOURCE", "MODE", "LOCKID", "TOKEN"}}
			for _, g := range grants {
				t.add(text(g.Lockspace), text(g.Resource), text(g.Mode), number(g.LockID), tokenCell(g.Token))
			}
			t.write(a.out)
		})
	})
}

// held describes locks that are held, and the commands that release them.
func held(grants []client.Grant) (done, undo string) {
	var what, how []string
	for _, g := range grants {
		what = append(what, fmt.Sprintf("%s/%s is held in %s, lockid %d, token %d",
			g.Lockspace, g.Resource, g.Mode, g.LockID, g.Token))
		how = append(how, fmt.Sprintf("dlmlockctl release %s %s --lockid=%d",
			shellWord(g.Lockspace), shellWord(g.Resource), g.LockID))
	}
	return strings.Join(what, ", "), strings.Join(how, "; ")
}

// take acquires one lock, or several at once.
func take(ctx context.Context, c *client.Client, want []client.Want, o client.Options) ([]client.Grant, error) {
	if len(want) != 1 {
		return c.AcquireMany(ctx, want, o)
	}
	g, err := c.Acquire(ctx, want[0], o)
	return []client.Grant{g}, err
}

// lockResult is what a command that has changed one lock writes as JSON.
type lockResult struct {
	Lockspace string `json:"lockspace"`
	Resource  string `json:"resource"`
	LockID    uint32 `json:"lockid,omitempty"` // 0: the answer did not say
	Mode      string `json:"mode"`             // two letters, whatever was typed
	Token     uint64 `json:"token,omitempty"`  // 0: the mode has none
}

// tokenCell shows a fencing token; 0 stands for none.
func tokenCell(n uint64) cell {
	if n == 0 {
		return cell{}
	}
	return number(n)
}

// selectorFlags adds the flags that select one lock of a resource.
func (a *app) selectorFlags(cmd *cobra.Command, s *client.Selector) {
	f := cmd.Flags()
	f.StringVar(&s.Owner, "owner", "", "only a lock of this owner")
	f.Uint32Var(&s.LockID, "lockid", 0, "only the lock with this lockid")
	f.Uint64Var(&s.Token, "token", 0, "only the lock with this fencing token")
	f.StringVar((*string)(&s.Lock), "lock", "", "only the lock with this object path")
	a.completeFlag(cmd, "owner", owners)
}

// checkSelector refuses what can't be sent over the bus.
func checkSelector(s client.Selector) error {
	if s.Lock != "" && !s.Lock.IsValid() {
		return wrongUsage("--lock=%s: not an object path such as %s/lock/1", s.Lock, client.Path)
	}
	return nil
}

func (a *app) releaseCmd() *cobra.Command {
	var s client.Selector
	cmd := &cobra.Command{
		Use:   "release LOCKSPACE RESOURCE [--owner=OWNER] [--lockid=ID]",
		Short: "Release one lock",
		Long: `Releases one lock of the resource. Without --owner the owner does not matter: it is
any lock of the calling user there, also one that another program still needs. If
root has no lock there, it is any other user's. The program that holds the lock is
not asked; the command of "dlmlockctl run" is terminated.

If several locks match, none is released, and the error lists them: --owner,
--lockid, --token or --lock says which one is meant.`,
		SuggestFor:        []string{"unlock", "free", "drop"},
		Example:           "  dlmlockctl release vms disk1 --owner=$uuid",
		Args:              needs(2, "LOCKSPACE", "RESOURCE"),
		ValidArgsFunction: a.complete(lockspaces, resources),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkSelector(s); err != nil {
				return err
			}
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				if err := c.Release(ctx, args[0], args[1], s); err != nil {
					return about(err, args[0], args[1])
				}
				a.done = fmt.Sprintf("released %s/%s", args[0], args[1])
				return a.show(map[string]any{"lockspace": args[0], "resource": args[1], "released": 1}, a.say)
			})
		},
	}
	a.selectorFlags(cmd, &s)
	return cmd
}

func (a *app) releaseOwnerCmd() *cobra.Command {
	var space string
	cmd := &cobra.Command{
		Use:   "release-owner OWNER [--lockspace=LOCKSPACE]",
		Short: "Release all locks of an owner",
		Long: `Releases all locks that the calling user holds for this owner. Root releases the
locks of every user's owner of that name. It is no error if there are none.`,
		Args:              needs(1, "OWNER"),
		ValidArgsFunction: a.complete(owners),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return wrongUsage("OWNER is empty; \"dlmlockctl release\" releases a lock without owner")
			}
			return a.with(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error {
				n, err := c.ReleaseOwner(ctx, space, args[0])
				if err != nil {
					return about(err, space, "")
				}
				a.done = fmt.Sprintf("released %s of %s", plural(n, "lock"), args[0])
				return a.show(map[string]any{"owner": args[0], "released": n}, a.say)
			})
		},
	}
	cmd.Flags().StringVarP(&space, "lockspace", "l", "", "only in this lockspace")
	a.completeFlag(cmd, "lockspace", lockspaces)
	return cmd
}

func (a *app) convertCmd() *cobra.Command {
	var s client.Selector
	var wait waitFlag
	var value []byte
	cmd := &cobra.Command{
		Use:   "convert LOCKSPACE RESOURCE MODE [--owner=OWNER] [--wait=TIME]",
		Short: "Change the mode of a lock without releasing it",
		Long: `Changes the mode of a lock without releasing it. If the conversion fails, the
lock keeps its mode, unless the error says otherwise.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := inOrder("convert", args); err != nil && len(args) <= 3 {
				return err
			}
			return needs(3, "LOCKSPACE", "RESOURCE", "MODE")(cmd, args)
		},
		ValidArgsFunction: a.complete(lockspaces, resources, modes),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkSelector(s); err != nil {
				return err
			}
			w := wants(args)[0]
			return a.with(cmd.Context(), wait.d, func(ctx context.Context, c *client.Client) error {
				defer a.progress(ctx, []client.Want{w}, &s, wait.d)()
				n, err := c.ConvertValue(ctx, w, s, wait.d, value)
				if err != nil {
					return aboutWants(ctx, c, err, []client.Want{w}, &s, wait.d)
				}
				a.done = fmt.Sprintf("converted %s/%s to %s", w.Lockspace, w.Resource, w.Mode)
				return a.show(lockResult{w.Lockspace, w.Resource, 0, dlm.Canonical(w.Mode), n}, a.say)
			})
		},
	}
	a.selectorFlags(cmd, &s)
	valueFlag(cmd, &value)
	addWait(cmd.Flags(), &wait)
	return cmd
}
