package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
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
func (a *app) progress(ctx context.Context, want []client.Want, wait time.Duration) (stop func()) {
	if a.quiet || a.json || wait == 0 || !isTerminal(a.err) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.showProgress(ctx, want, wait)
	}()
	return func() {
		cancel()
		<-done
	}
}

// showProgress draws the line. It has a connection of its own, since the service
// answers the calls of one connection in order.
func (a *app) showProgress(ctx context.Context, want []client.Want, wait time.Duration) {
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
			_, who = inTheWay(ctx, c, want)
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
func inTheWay(ctx context.Context, c *client.Client, want []client.Want) (client.Want, string) {
	for _, w := range want {
		in, err := c.Inspect(ctx, w.Lockspace, w.Resource)
		if err != nil {
			return client.Want{}, ""
		}
		if holders(&in, w.Mode, nil) != "" {
			return w, holders(&in, w.Mode, namesOf(ctx, c))
		}
	}
	return client.Want{}, ""
}

// inWay reports whether a lock held in a mode is in the way of another. A mode that
// can't be read is taken to be.
func inWay(held, wanted string) bool {
	h, err := dlm.ParseMode(held)
	w, err2 := dlm.ParseMode(wanted)
	return err != nil || err2 != nil || !dlm.Compatible(h, w)
}

// holders names for people who holds a resource in a mode that is in the way of
// the one wanted, or, with "", in any: locks of this node by label or owner, those
// of other nodes by node and by what the last holder has published.
func holders(in *client.Inspection, wanted string, nodes nodeNames) string {
	var names []string
	seen := map[uint32]bool{}
	for _, l := range in.Locks {
		if l.State == "acquiring" {
			continue
		}
		seen[l.LockID] = true // the lock manager lists it among the granted ones, too
		if wanted != "" && !inWay(l.Mode, wanted) {
			continue
		}
		who := l.Label
		if who == "" {
			who = l.Owner
		}
		if who == "" {
			who = fmt.Sprintf("process %d", l.PID)
		}
		names = append(names, fmt.Sprintf("%s (this node, %s)", visible(who), l.Mode))
	}
	// What is published is the text of one holder, that of the last grant in PW or EX. It may be
	// cut off after some bytes, which is all that a value block has room for.
	published := in.Holder
	for _, q := range in.Granted {
		if seen[q.LockID] || q.Mode == "NL" || wanted != "" && !inWay(q.Mode, wanted) {
			continue
		}
		name := nodes.node(q.Node, q.Mode)
		if published != nil && published.Node == q.Node && published.Who != "" {
			name = nodes.on(q.Node, published.Who, q.Mode)
			published = nil
		}
		names = append(names, name)
	}
	// A node that is not the master sees no lock of others. Then the value block is all there is,
	// and may be out of date.
	if len(names) == 0 && published != nil && published.Node != 0 && (wanted == "" || inWay(published.Mode, wanted)) {
		names = append(names, nodes.on(published.Node, published.Who, published.Mode))
	}
	return strings.Join(names, ", ")
}
