package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dlmlock/dlmlockd/client"
)

// A job that runs once in a while in the whole cluster needs more than a lock: the lock
// is free again as soon as the job has ended. So the time of its last beginning is kept
// in the lock value block of a second resource, as the fencing token of whoever had it
// in EX last: a token is a time of the token clock, which the nodes share
// (docs/tokens.md).
//
// The order, under the lock of the job:
//
//  1. NL on the second resource, persistent, for an owner that all runs of this node
//     share. It keeps the value block alive while nobody runs the job.
//  2. Look at the value block. Too early: release the lock of the job, and end.
//  3. Convert the second lock to EX, which writes the time, and back to NL.
//  4. Run the job.
//
// Die before 3: the job has not begun, and the next one runs it. Die after 3: it counts as
// begun, as a job of cron that fails does. If all nodes leave the lockspace or end, the
// value block is gone with their locks, and the job runs. The embedded engine forgets
// value blocks in a restart; the token of the second lock, which is recorded, stands in
// for them.

// onceOwner is the owner of the second locks.
const onceOwner = "dlmlockctl-once"

// onceSuffix makes the name of the second resource.
const onceSuffix = ".last"

// errTooEarly means that the job has run within the period.
var errTooEarly = errors.New("it has run within the period")

// beginPeriod notes that a job begins, if none has within the period; the error is
// errTooEarly otherwise. held is the lock of the job.
func (a *app) beginPeriod(ctx context.Context, c *client.Client, held *client.Held, period time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, a.patience())
	defer cancel()
	g := held.Grants()[0]
	last := client.Want{Lockspace: g.Lockspace, Resource: g.Resource + onceSuffix, Mode: "NL"}
	if g.Token == 0 {
		return wrongUsage("--once-per needs fencing tokens, which a lockspace for raw values does not have")
	}
	before, err := c.Locks(ctx, client.Filter{Lockspace: last.Lockspace, Resource: last.Resource, Owner: onceOwner})
	if err != nil {
		return fmt.Errorf("find out when the job was last run: %w", err)
	}
	note, err := c.Acquire(ctx, last, client.Options{Owner: onceOwner, Lifetime: client.Persistent,
		Label: "when " + shorten(g.Resource) + " was last run"})
	if errors.Is(err, client.AlreadyHeld) {
		// A run that was killed between the two conversions.
		err = nil
	}
	if err != nil {
		return fmt.Errorf("note when the job runs: %w", err)
	}
	in, err := c.Inspect(ctx, last.Lockspace, last.Resource)
	if err != nil {
		return fmt.Errorf("find out when the job was last run: %w", err)
	}
	if began := lastBegin(in.Holder, before); began != 0 {
		// A token counts microseconds. A token from the future, from a node whose clock was ahead,
		// counts as now: then the job is not run too often.
		since := time.Duration(g.Token-min(began, g.Token)) * time.Microsecond
		if since < period {
			return fmt.Errorf("%w: it began %v ago", errTooEarly, since.Round(time.Second))
		}
	}
	for _, last.Mode = range []string{"EX", "NL"} {
		if _, err = c.Convert(ctx, last, client.Selector{Owner: onceOwner, Lock: note.Lock}, 0); err != nil {
			return fmt.Errorf("note when the job runs: %w", err)
		}
	}
	return nil
}

// lastBegin is the token of the last run, 0 if none is known. Where the value block says
// nothing, because it was lost, the lock of this node still has the token of its own last
// run, or of the run that it found when it was taken.
func lastBegin(holder *client.Holder, own []client.Lock) uint64 {
	if holder != nil && holder.Token != 0 {
		return holder.Token
	}
	var token uint64
	for _, l := range own {
		token = max(token, l.Token)
	}
	return token
}
