package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// floods are the ways in which one user can disturb the others.
func floods() []flood {
	type options = map[string]godbus.Variant
	limit := godbus.MakeVariant(uint32(10000))
	owner := func(s string) options { return options{"owner": godbus.MakeVariant(s)} }
	introspect, getAll := "org.freedesktop.DBus.Introspectable.Introspect", "org.freedesktop.DBus.Properties.GetAll"
	root := string(servicePath)
	type want struct{ Lockspace, Resource, Mode string }
	var many []want
	for i := range 1000 {
		many = append(many, want{space, fmt.Sprintf("flood-%d", i), "EX"})
	}
	return []flood{
		{name: "the bus alone: 20 connections ask it for its names", conns: 20, window: 8, dest: "org.freedesktop.DBus",
			calls: []*rawCall{at("/org/freedesktop/DBus", "org.freedesktop.DBus.ListNames")}},
		{name: "ListLocks, limit 10,000, 20 connections", conns: 20, window: 8,
			calls: []*rawCall{call("ListLocks", options{"limit": limit})}},
		{name: "ListLocks of an owner who has none, 20 connections", conns: 20, window: 8,
			calls: []*rawCall{call("ListLocks", owner("needle"))}},
		{name: "ListLocks in a mode that none is in, 20 connections", conns: 20, window: 8,
			calls: []*rawCall{call("ListLocks", options{"mode": godbus.MakeVariant("CW")})}},
		{name: "GetManagedObjects, 5 connections", conns: 5, window: 8,
			calls: []*rawCall{at(root, "org.freedesktop.DBus.ObjectManager.GetManagedObjects")}},
		{name: "Introspect, 20 connections", conns: 20, window: 8, calls: []*rawCall{at(root, introspect)}},
		{name: "Introspect of the locks, 20 connections", conns: 20, window: 8,
			calls: []*rawCall{at(root+"/lock", introspect)}},
		{name: "GetAll, 20 connections", conns: 20, window: 8, calls: []*rawCall{at(root, getAll, serviceName)}},
		{name: "Inspect, 20 connections", conns: 20, window: 8, calls: []*rawCall{call("Inspect", space, "kept-1")}},
		{name: "refused Acquires, 20 connections", conns: 20, window: 8,
			calls: []*rawCall{call("Acquire", space, "kept-1", "EX", owner("flood"))}},
		{name: "AcquireMany of 1,000 and ReleaseOwner, 4 connections", conns: 4, window: 2,
			calls: []*rawCall{call("AcquireMany", many, owner("flood")), call("ReleaseOwner", space, "flood")}},
		{name: "8 subscriptions that are not read", conns: 8, first: call("Subscribe"), unread: true},
		{name: "16,384 Requests, then gone, again and again", conns: 1, burst: 16384, window: 100,
			calls: []*rawCall{call("Request", space, "kept-1", "EX", options{})}},
		{name: "10,000 locks of lifetime connection, then gone", conns: 1, burst: 10, window: 1,
			calls: connectionLocks(10, 1000)},
		{name: "messages of 31 MiB, 4 connections", conns: 4, window: 1, raw: bigMessage(31 << 20)},
		{name: "messages of 4 MiB, 4 connections", conns: 4, window: 2, raw: bigMessage(4 << 20)},
	}
}

func connectionLocks(calls, each int) []*rawCall {
	type want struct{ Lockspace, Resource, Mode string }
	var out []*rawCall
	for i := range calls {
		var many []want
		for k := range each {
			many = append(many, want{space, fmt.Sprintf("bound-%d-%d", i, k), "EX"})
		}
		out = append(out, call("AcquireMany", many,
			map[string]godbus.Variant{"lifetime": godbus.MakeVariant("connection")}))
	}
	return out
}

// bigMessage is an AcquireMany with a text of that length.
func bigMessage(size int) func() []byte {
	return func() []byte {
		type want struct{ Lockspace, Resource, Mode string }
		return call("AcquireMany", []want{{space, "big", "EX"}},
			map[string]godbus.Variant{"label": godbus.MakeVariant(strings.Repeat("x", size))}).encode(serviceName)
	}
}

// latencies are how long the pairs of a client took.
type latencies []time.Duration

func (l latencies) at(q float64) time.Duration { return l[min(len(l)-1, int(float64(len(l))*q))] }

// measure makes pairs for the given time, but at least a hundred.
func (c *caller) measure(d time.Duration) latencies { return measure(d, func() { c.pairs(1) }) }

// measure calls do for the given time, but at least a hundred times.
func measure(d time.Duration, do func()) latencies {
	var out latencies
	for began := time.Now(); time.Since(began) < d || len(out) < 100 && time.Since(began) < 10*d; {
		at := time.Now()
		do()
		out = append(out, time.Since(at))
	}
	slices.Sort(out)
	return out
}

// measureFlood measures pairs without and with the flood that start begins, in turns.
func (s *site) measureFlood(b *testing.B, measure func(time.Duration) latencies, start func() *exec.Cmd) floodLine {
	var line floodLine
	measure(time.Second)
	before := resident(b, s)
	var peak atomic.Int64
	stop := s.watchMemory(b, &peak)
	for range 2 {
		line.quiet = append(line.quiet, measure(1500*time.Millisecond)...)
		cmd := start()
		time.Sleep(300 * time.Millisecond)
		line.loud = append(line.loud, measure(3*time.Second)...)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		measure(500 * time.Millisecond)
	}
	close(stop)
	slices.Sort(line.quiet)
	slices.Sort(line.loud)
	line.more = (int(peak.Load()) - before) >> 20
	b.ReportMetric(float64(line.loud.at(.99).Microseconds()), "p99-us")
	b.ReportMetric(float64(line.quiet.at(.99).Microseconds()), "quiet-p99-us")
	b.ReportMetric(float64(line.loud[len(line.loud)-1].Milliseconds()), "worst-ms")
	b.ReportMetric(float64(line.more), "MiB")
	return line
}

// BenchmarkFloods measures the effect of one user's flood on another user.
func BenchmarkFloods(b *testing.B) {
	const held = 20_000
	for i, f := range floods() {
		b.Run(f.name, func(b *testing.B) {
			s := newSite(b, testbus.Daemon)
			must(b, os.WriteFile(filepath.Join(s.dir, "c.toml"),
				[]byte("group = \"nogroup\"\n[limits]\nlocks-per-uid = 1000000\nlocks-per-call = 10000\npage-size = "+
					"10000\n"), 0o600))
			s.start(b)
			c := s.caller(b, serviceName, "disk")
			c.join()
			c.fill(held)
			line := s.measureFlood(b, c.measure, func() *exec.Cmd { return s.flood(b, i) })
			line.name = f.name
			addTo(&floodReport, line)
		})
	}
}

func (s *site) flood(tb testing.TB, kind int) *exec.Cmd {
	cmd := s.run(os.Args[0], []string{fmt.Sprintf("%s=%d %s", envFlood, kind, s.bus.Address)})
	must(tb, cmd.Start())
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func (s *site) watchMemory(tb testing.TB, peak *atomic.Int64) (stop chan struct{}) {
	stop = make(chan struct{})
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				if n := int64(resident(tb, s)); n > peak.Load() {
					peak.Store(n)
				}
			}
		}
	}()
	return stop
}

// floodLine is a line of the second table.
type floodLine struct {
	name        string
	quiet, loud latencies
	more        int // MiB
}

var floodReport []floodLine

func addTo(report *[]floodLine, l floodLine) {
	i := slices.IndexFunc(*report, func(o floodLine) bool { return o.name == l.name })
	if i < 0 {
		*report = append(*report, l)
	} else {
		(*report)[i] = l
	}
}

func floodTable(report []floodLine) string {
	var b strings.Builder
	b.WriteString("| flood | quiet p50 | quiet p99 | p50 | p99 | p99 to quiet | longest | memory over quiet |\n| " +
		"--- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, l := range report {
		ms := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000) }
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %d MiB |\n", l.name, ms(l.quiet.at(.5)),
			ms(l.quiet.at(.99)),
			ms(l.loud.at(.5)), ms(l.loud.at(.99)), ratio(l.loud.at(.99), l.quiet.at(.99)), ms(l.loud[len(l.loud)-1]),
			l.more)
	}
	return b.String()
}
