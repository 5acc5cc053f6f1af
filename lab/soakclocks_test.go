package lab_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

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
