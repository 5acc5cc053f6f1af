package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// waitLookTime limits how long a call whose wait is over looks for holders, and mostHolders
// how many of them its error names.
const (
	waitLookTime = 2 * time.Second
	mostHolders  = 3
)

// waitOver replaces the error of a wait that is over by one in the words of this package, which
// also names who holds the lock. It returns every other error as it is. The service's own words
// are for callers of its methods, and do not always name a holder on another node. own selects
// the lock that was to be converted, which is not in its own way. An empty one does not say here
// which lock that was, but the service knows it, so the service's error is returned then.
func (c *Client) waitOver(ctx context.Context, err error, want []Want, own Selector, wait time.Duration) error {
	var e *Error
	if !errors.As(err, &e) || e.Kind != Timeout || wait <= 0 || ctx.Err() != nil {
		return err
	}
	verb, longer := "acquire ", "a larger Options.Wait waits longer, a negative one without limit"
	if e.Op == "Convert" {
		if own == (Selector{}) {
			return err
		}
		verb, longer = "convert ", "a larger wait waits longer, a negative one without limit"
	}
	text := verb + namesOf(want) + ": not granted within " + wait.String()
	if who := c.inTheWay(ctx, want, own); who != "" {
		text += "; " + who
	}
	return &Error{Op: e.Op, Kind: Timeout, Name: e.Name, Err: e.Err,
		Message: text + "; " + longer + ", and Inspect shows who is in the way"}
}

// namesOf names locks for an error.
func namesOf(want []Want) string {
	names := make([]string, len(want))
	for i, w := range want {
		names[i] = strings.TrimSpace(w.Lockspace + "/" + w.Resource + " " + canonical(w.Mode))
	}
	return strings.Join(names, ", ")
}

// inTheWay says who holds the first of the wanted locks that somebody holds; "" if that is not
// known. An error of its own counts as not known, because the caller has an error already.
func (c *Client) inTheWay(ctx context.Context, want []Want, own Selector) string {
	ctx, cancel := context.WithTimeout(ctx, waitLookTime)
	defer cancel()
	for _, w := range want {
		in, err := c.Inspect(ctx, w.Lockspace, w.Resource)
		if err != nil {
			return ""
		}
		if who := in.holders(w.Mode, own); len(who) > 0 {
			if n := len(who) - mostHolders; n > 0 {
				who = append(who[:mostHolders], fmt.Sprintf("%d more", n))
			}
			text := "held by " + strings.Join(who, ", ")
			if len(want) > 1 {
				text = w.Lockspace + "/" + w.Resource + " is " + text
			}
			return text
		}
	}
	return ""
}

// holders names those who hold a resource in a mode that is in the way of the wanted one: locks
// of this node by label or owner, locks of other nodes by their node and by what the last holder
// in PW or EX has published.
func (in *Inspection) holders(wanted string, own Selector) (names []string) {
	seen := map[uint32]bool{}
	for _, l := range in.Locks {
		seen[l.LockID] = l.LockID != 0
		if l.State == "acquiring" || own.means(&l) || !inWay(l.Mode, wanted) {
			continue
		}
		names = append(names, fmt.Sprintf("%s (this node, %s)", name(cmp.Or(l.Label, l.Owner), l.PID), l.Mode))
	}
	published := in.Holder
	for _, q := range in.Granted {
		switch {
		case seen[q.LockID] || !inWay(q.Mode, wanted):
		case published != nil && published.Node == q.Node && published.Who != "":
			names = append(names, fmt.Sprintf("%q (node %d, %s)", published.Who, q.Node, q.Mode))
			published = nil
		default:
			names = append(names, fmt.Sprintf("node %d (%s)", q.Node, q.Mode))
		}
	}
	if len(names) == 0 && published != nil && published.Node != 0 && own == (Selector{}) && inWay(published.Mode, wanted) {
		names = append(names, fmt.Sprintf("%q (node %d, %s)", published.Who, published.Node, published.Mode))
	}
	return names
}

// name names the holder of a lock on this node.
func name(who string, pid uint32) string {
	if who == "" {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("%q", who)
}

// means reports whether a lock is the one that was selected. An empty Selector does not say which
// of several locks it means, but with several locks the call fails with another error.
func (s *Selector) means(l *Lock) bool {
	return *s != Selector{} && (s.Lock == "" || s.Lock == l.Lock) && (s.LockID == 0 || s.LockID == l.LockID) &&
		(s.Owner == "" || s.Owner == l.Owner) && (s.Token == 0 || s.Token == l.Token)
}

// inWay reports whether a lock held in one mode is in the way of the other mode. A mode that
// can't be parsed counts as in the way.
func inWay(held, wanted string) bool {
	h, err := dlm.ParseMode(held)
	w, err2 := dlm.ParseMode(wanted)
	return err != nil || err2 != nil || !dlm.Compatible(h, w)
}
