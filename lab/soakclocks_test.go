package lab_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/lab"
)

// clockReading is what the clock of a node said at a moment of this machine's clock.
type clockReading struct {
	boot string        // the boot of the node since which up counts
	at   time.Time     // in the middle of the reading
	up   time.Duration // since the boot: CLOCK_BOOTTIME, from which tokens are made
}

// readClock reads the clock of a node; the reading is off by a hundredth of a second, and by
// half the time that the command takes.
func readClock(ctx context.Context, n *lab.Node) (r clockReading, err error) {
	begin := time.Now()
	text, err := n.Shell(ctx, "cat /proc/uptime /proc/sys/kernel/random/boot_id")
	if err != nil {
		return r, err
	}
	var up, idle float64
	if _, err := fmt.Sscan(text, &up, &idle, &r.boot); err != nil {
		return r, fmt.Errorf("%q: %w", text, err)
	}
	r.at, r.up = begin.Add(time.Since(begin)/2), time.Duration(up*float64(time.Second))
	return r, nil
}

// rateTo is how fast the clock went up to a later reading: 1 is right, and 0 stands for a
// node that has booted in between.
func (r clockReading) rateTo(later clockReading) float64 {
	if r.boot == "" || r.boot != later.boot {
		return 0
	}
	return (later.up - r.up).Seconds() / later.at.Sub(r.at).Seconds()
}

// readClocks reads the clocks of all nodes; a node that can't be read has the zero reading.
func (s *soak) readClocks(ctx context.Context) (all []clockReading) {
	for _, n := range s.rig.cluster.Nodes() {
		r, _ := readClock(ctx, n)
		all = append(all, r)
	}
	return all
}

// clockRates is how fast the clock of each node has gone since earlier readings. A node that
// was paused has a slow clock, and so has one whose kernel misjudged its
// processor's time stamp counter.
func (s *soak) clockRates(ctx context.Context, since []clockReading) (rates []float64) {
	for i, now := range s.readClocks(ctx) {
		rates = append(rates, since[i].rateTo(now))
	}
	return rates
}

// keepTokens writes what explains a token that went back: all tokens of the slice, in the order
// of the calls, which show what the token clock of each node said when, and how fast the clocks
// of the nodes go, in this slice and now.
func (s *soak) keepTokens(r *sliceReport, tokens map[string][]seenToken) {
	const look = 10 * time.Second
	ctx := lab.Context(s.t, "clocks", commandTime)
	var b strings.Builder
	for _, t := range sortedByCall(slices.Concat(slices.Collect(maps.Values(tokens))...)) {
		fmt.Fprintf(&b, "%12d %20d %d %s %s\n", t.call, t.ret, t.token, t.owner, t.resource)
	}
	before := s.readClocks(ctx)
	pause(ctx, look)
	fmt.Fprintf(&b, "\nthe clock of each node against that of this machine, in the slice: %.4f; now: %.4f\n",
		r.Clocks, s.clockRates(ctx, before))
	for _, n := range s.rig.cluster.Nodes() {
		text, err := n.Shell(ctx, "cat "+soakState+"/clock.toml; "+
			"cat /sys/devices/system/clocksource/clocksource0/current_clocksource; dmesg | grep -iE 'tsc|clocksource'")
		fmt.Fprintf(&b, "\n== %s\n%s%v\n", n.Name, text, err)
	}
	_ = os.WriteFile(s.keep(r)+".tokens", []byte(b.String()), 0o644)
}

// followTime is how soon the token clocks of the others follow one that was set ahead. Each node
// asks for the clock of the lockspace every five seconds (docs/tokens.md), and looks every half
// second whether it is time. With a build of SOAK_OTHER that does not ask at once when its clock
// was set ahead, that is ten seconds and a half. The nodes of the lab are slow.
const followTime = 12 * time.Second

// followClock sets the clock of a node a minute ahead of its token clock, at a time when nobody
// else does anything, and waits until the tokens of all other nodes are larger than the token that
// this node gave then. It returns how long that took. Nobody has used the resources before, so no
// value block helps.
func (s *soak) followClock(ctx context.Context, ahead *lab.Node) (time.Duration, error) {
	now, err := s.clockToken(ctx, ahead)
	if err != nil {
		return 0, err
	}
	if _, err := ahead.Shell(ctx, fmt.Sprintf("date -s @%d >/dev/null", now/1e6+60)); err != nil {
		return 0, err
	}
	first, err := s.clockToken(ctx, ahead)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	for _, n := range s.rig.cluster.Nodes() {
		for n != ahead {
			token, err := s.clockToken(ctx, n)
			if err != nil {
				return 0, err
			}
			if token > first {
				break
			}
			if since := time.Since(begin); since > followTime {
				return since, fmt.Errorf("after %v the token clock of %s has not followed that of %s: %d, behind %d", since,
					n.Name, ahead.Name, token, first)
			}
			pause(ctx, 100*time.Millisecond)
		}
	}
	return time.Since(begin), nil
}

// clockToken is the token of a grant of a resource that nobody has used before.
func (s *soak) clockToken(ctx context.Context, n *lab.Node) (uint64, error) {
	bus, err := s.rig.services[n.ID].Dial(ctx)
	if err != nil {
		return 0, err
	}
	defer bus.Close()
	s.unused++
	name := fmt.Sprintf("unused%d", s.unused)
	grant, err := bus.Acquire(ctx, client.Want{Lockspace: soakSpace, Resource: name, Mode: "EX"}, client.Options{})
	if err != nil {
		return 0, err
	}
	return grant.Token, bus.Release(ctx, soakSpace, name, client.Selector{})
}
