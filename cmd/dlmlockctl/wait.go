package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/dlmlock/dlmlockd/client"
)

// waitFlag is how long to wait in the queue. A negative time has no end.
type waitFlag struct{ d time.Duration }

func (w *waitFlag) String() string {
	if w.d < 0 {
		return "forever"
	}
	return w.d.String()
}

// Set reads a time as Go and systemd write it, a number of seconds as flock(1)
// takes it, or "forever".
func (w *waitFlag) Set(s string) error {
	if s == "forever" {
		w.d = -1
		return nil
	}
	d, err := time.ParseDuration(s)
	if n, e := strconv.ParseFloat(s, 64); e == nil && n < 1e9 {
		d, err = time.Duration(n*float64(time.Second)), nil
	}
	if err != nil || d < 0 {
		return errors.New("not a time such as 90s, 5m, 1h30m, a number of seconds, or \"forever\"")
	}
	w.d = d
	return nil
}

func (w *waitFlag) Type() string { return "TIME" }

// addWait adds --wait.
func addWait(f *pflag.FlagSet, to *waitFlag) {
	f.VarP(to, "wait", "w", "how long to wait: 90s, 5m, seconds, or \"forever\" (default: not at all)")
	f.Lookup("wait").DefValue = "" // the text has it
}

// timeoutFlag is how long the service may take to answer. It can't be "forever",
// since a service that hangs would hang its callers.
type timeoutFlag struct{ d *time.Duration }

func (t *timeoutFlag) String() string { return "" }

// Set reads a time as --wait does.
func (t *timeoutFlag) Set(s string) error {
	var w waitFlag
	if err := w.Set(s); err != nil || w.d <= 0 {
		return errors.New("not a time such as 90s, 5m, 1h30m or a number of seconds")
	}
	*t.d = w.d
	return nil
}

func (t *timeoutFlag) Type() string { return "TIME" }

// When the progress line appears, how often it is drawn, and how often the
// service is asked who holds the lock.
const (
	progressAfter = time.Second
	progressEvery = time.Second
	askEvery      = 5 * time.Second
)

// progress shows on a terminal what is waited for, for how long, and who holds it,
// until the returned function is called.
// converting is as for inTheWay.
func (a *app) progress(ctx context.Context, want []client.Want, converting *client.Selector,
	wait time.Duration) (stop func()) {
	if a.quiet || a.json || wait == 0 || !isTerminal(a.err) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.showProgress(ctx, want, converting, wait)
	}()
	return func() {
		cancel()
		<-done
	}
}

// showProgress draws the line. It has a connection of its own, since the service
// answers the calls of one connection in order.
func (a *app) showProgress(ctx context.Context, want []client.Want, converting *client.Selector, wait time.Duration) {
	begin := time.Now()
	timer := time.NewTimer(progressAfter)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	}
	c, err := a.dial(ctx)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	c.AutoStart(false)
	defer fmt.Fprint(a.err, "\r\x1b[K")
	var who string
	var asked time.Time
	for ctx.Err() == nil {
		if time.Since(asked) >= askEvery {
			_, who = inTheWay(ctx, c, want, converting)
			asked = time.Now()
		}
		fmt.Fprintf(a.err, "\r\x1b[K%s", progressLine(want, who, time.Since(begin), wait))
		timer.Reset(progressEvery)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
	}
}

func progressLine(want []client.Want, who string, waited, wait time.Duration) string {
	limit := ""
	if wait > 0 {
		limit = " of " + wait.String()
	}
	name := visible(want[0].Lockspace) + "/" + visible(want[0].Resource)
	if len(want) > 1 {
		name += fmt.Sprintf(" and %d more", len(want)-1)
	}
	if who != "" {
		who = ", held by " + who
	}
	return fmt.Sprintf("waiting for %s: %s%s%s", name, waited.Round(time.Second), limit, who)
}

// inTheWay finds the first of the locks that somebody holds in a mode that is
// not compatible with the one wanted, and names the holders; "" if none is known.
// converting selects the lock that is to be converted; nil: this is no conversion.
func inTheWay(ctx context.Context, c *client.Client, want []client.Want,
	converting *client.Selector) (client.Want, string) {
	for _, w := range want {
		in, err := c.Inspect(ctx, w.Lockspace, w.Resource)
		if err != nil {
			return client.Want{}, ""
		}
		own, known := ownLock(in.Locks, converting, os.Geteuid())
		if !known {
			return client.Want{}, ""
		}
		forgetPIDs(ctx, c, in.Locks)
		if all := in.Obstacles(w.Mode, own); len(all) > 0 {
			return w, namesOf(ctx, c).holders(all)
		}
	}
	return client.Want{}, ""
}

// ownLock selects the lock that the service has converted, or tried to convert, for the Selector
// converting: this lock is not in its own way. The service prefers a lock of the caller's user.
// known is false if the locks as they are now do not show which one it is.
func ownLock(locks []client.Lock, converting *client.Selector, uid int) (own client.Selector, known bool) {
	if converting == nil {
		return client.Selector{}, true
	}
	var mine, all []client.Selector
	for _, l := range locks {
		if l.State == "acquiring" || !converting.Matches(&l) {
			continue
		}
		all = append(all, client.Selector{Lock: l.Lock})
		if int(l.UID) == uid {
			mine = append(mine, client.Selector{Lock: l.Lock})
		}
	}
	if len(mine) > 0 {
		all = mine
	}
	if len(all) != 1 {
		return client.Selector{}, false
	}
	return all[0], true
}

// whoHolds names the holder of a lock of this node. A pid of 0 is one that says nothing (forgetPIDs).
func whoHolds(o client.Obstacle) string {
	switch {
	case o.Who != "":
		return o.Who
	case o.PID != 0:
		return fmt.Sprintf("process %d", o.PID)
	}
	return fmt.Sprintf("uid %d", o.UID)
}

// holders describes obstacles for people: locks of this node by label, owner, process or user, those of
// other nodes by node and by the text that the last holder has published. That text may be cut off,
// because a value block has room for only some bytes of it.
func (n nodeNames) holders(all []client.Obstacle) string {
	var names []string
	for _, o := range all {
		switch {
		case o.Node == 0:
			names = append(names, fmt.Sprintf("%s (this node, %s)", visible(whoHolds(o)), o.Mode))
		case o.Who == "":
			names = append(names, n.node(o.Node, o.Mode))
		default:
			names = append(names, n.on(o.Node, o.Who, o.Mode))
		}
	}
	return strings.Join(names, ", ")
}
