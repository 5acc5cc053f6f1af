package client

import (
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
		names[i] = strings.TrimSpace(w.Lockspace + "/" + w.Resource + " " + dlm.Canonical(w.Mode))
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
		if who := names(in.Obstacles(w.Mode, own)); len(who) > 0 {
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

// names describes obstacles for people: locks of this node by label, owner or process, locks of
// other nodes by their node and by what the holder has published.
func names(obstacles []Obstacle) (all []string) {
	for _, o := range obstacles {
		where := "this node"
		if o.Node != 0 {
			where = fmt.Sprintf("node %d", o.Node)
		}
		switch {
		case o.Who != "":
			all = append(all, fmt.Sprintf("%q (%s, %s)", o.Who, where, o.Mode))
		case o.Node == 0 && o.PID == 0: // an orphan that was adopted
			all = append(all, fmt.Sprintf("uid %d (%s, %s)", o.UID, where, o.Mode))
		case o.Node == 0:
			all = append(all, fmt.Sprintf("process %d (%s, %s)", o.PID, where, o.Mode))
		default:
			all = append(all, fmt.Sprintf("%s (%s)", where, o.Mode))
		}
	}
	return all
}
