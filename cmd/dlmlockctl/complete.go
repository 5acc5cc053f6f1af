package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/dlmlock/dlmlockd/client"
)

// completeTime is how long the Tab key may take.
const completeTime = 2 * time.Second

// completeMost is how many locks are searched for words, at most.
const completeMost = 2000

// source finds the words for one argument; args are the arguments before it.
type source func(a *app, args []string) []string

func fixed(words ...string) source { return func(*app, []string) []string { return words } }

var (
	modes      = fixed("NL", "CR", "CW", "PR", "PW", "EX")
	lockspaces = asking(findLockspaces)
	resources  = asking(findResources)
	owners     = asking(findOwners)
)

// asking is a source that asks the service if it runs. The Tab key does not start
// the service, and nobody is asked for a password.
func asking(find func(ctx context.Context, c *client.Client, args []string) []string) source {
	return func(a *app, args []string) []string {
		return ask(context.Background(), completeTime, a.dial, func(ctx context.Context, c *client.Client) []string {
			return find(ctx, c, args)
		})
	}
}

// ask asks the service over a connection of its own, and does not start the service. Without an
// answer the result is empty.
func ask[T any](ctx context.Context, limit time.Duration, connect func(context.Context) (*client.Client, error),
	what func(context.Context, *client.Client) T) (answer T) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := connect(ctx)
	if err != nil {
		return answer
	}
	defer func() { _ = c.Close() }()
	c.AutoStart(false)
	return what(ctx, c)
}

func findLockspaces(ctx context.Context, c *client.Client, _ []string) []string {
	spaces, _ := c.Lockspaces(ctx) // without an answer there is nothing to complete
	var names []string
	for _, s := range spaces {
		names = append(names, s.Name)
	}
	return names
}

// findResources finds the resources of the lockspace that the last argument names.
func findResources(ctx context.Context, c *client.Client, args []string) []string {
	if len(args) == 0 {
		return nil
	}
	locks, _ := c.Locks(ctx, client.Filter{Lockspace: args[len(args)-1], Limit: completeMost})
	return unique(locks, func(l client.Lock) string { return l.Resource })
}

func findOwners(ctx context.Context, c *client.Client, _ []string) []string {
	locks, _ := c.Locks(ctx, client.Filter{Limit: completeMost})
	return unique(locks, func(l client.Lock) string { return l.Owner })
}

func unique(locks []client.Lock, field func(client.Lock) string) []string {
	var words []string
	for _, l := range locks {
		if w := field(l); w != "" && w == visible(w) { // a shell takes them line by line
			words = append(words, w)
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// complete completes positional arguments, each from its source.
func (a *app) complete(of ...source) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(of) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return of[len(args)](a, args), cobra.ShellCompDirectiveNoFileComp
	}
}

// repeat is complete for arguments of which those from number first on can be
// repeated.
func (a *app) repeat(first int, of ...source) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		n := len(args)
		if n >= len(of) {
			n = first + (n-first)%(len(of)-first)
		}
		return of[n](a, args), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlag completes the value of a flag.
func (a *app) completeFlag(cmd *cobra.Command, flag string, of source) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, args []string, _ string) ([]string,
		cobra.ShellCompDirective) {
		return of(a, args), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err) // the command has no such flag
	}
}
