package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dlmlock/dlmlockd/client"
)

// nodeNames are the names of the nodes by their numbers, as far as the service knows
// them. People are shown both: commands of the cluster take one or the other.
type nodeNames map[uint32]string

// namesOf asks the service for the names of the nodes. Without them, numbers have to
// do.
func namesOf(ctx context.Context, c *client.Client) nodeNames {
	st, err := c.Status(ctx)
	if err != nil {
		return nil
	}
	names, _ := st["Nodes"].(map[uint32]string)
	return names
}

// namesNow is namesOf over a connection of its own. It does not start the service.
func namesNow(ctx context.Context, connect func(context.Context) (*client.Client, error)) nodeNames {
	return ask(ctx, lookTime, connect, namesOf)
}

// node describes a node, with more about what is there: "node 2 (alpha, EX)".
func (n nodeNames) node(id uint32, more ...string) string {
	if about := n.about(id, more); len(about) > 0 {
		return fmt.Sprintf("node %d (%s)", id, strings.Join(about, ", "))
	}
	return fmt.Sprintf("node %d", id)
}

// on describes who is on a node: "web (node 2, alpha, EX)".
func (n nodeNames) on(id uint32, who string, more ...string) string {
	about := append([]string{fmt.Sprintf("node %d", id)}, n.about(id, more)...)
	return fmt.Sprintf("%s (%s)", visible(who), strings.Join(about, ", "))
}

func (n nodeNames) about(id uint32, more []string) []string {
	var parts []string
	for _, s := range append([]string{n[id]}, more...) {
		if s != "" {
			parts = append(parts, visible(s))
		}
	}
	return parts
}

// list lists some nodes: "1 (alpha), 2 (beta), 3".
func (n nodeNames) list(ids []uint32) string {
	var all []string
	for _, id := range ids {
		all = append(all, strings.TrimPrefix(n.node(id), "node "))
	}
	return strings.Join(all, ", ")
}

// String lists the nodes that have names.
func (n nodeNames) String() string { return n.list(slices.Sorted(maps.Keys(n))) }
