package bench

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// Each benchmark measures once, whatever b.N says, because only the ratio within one run counts.

// (a) the whole way over the bus, against the bus alone.
func BenchmarkAcquireRelease(b *testing.B) {
	for _, kind := range testbus.Kinds {
		b.Run(string(kind), func(b *testing.B) {
			s := newSite(b, kind)
			s.start(b)
			s.startFloor(b)
			s.startFloorC(b)
			var service, empty, emptyC []*caller
			for i := range 8 {
				resource := fmt.Sprintf("disk%d", i)
				service = append(service, s.caller(b, serviceName, resource))
				empty = append(empty, s.caller(b, floorName, resource))
				emptyC = append(emptyC, s.caller(b, sdbusName, resource))
			}
			service[0].join()
			const one, many = 200, 100
			m := interleave(21, func() { service[0].pairs(one) }, func() { empty[0].pairs(one) },
				func() { emptyC[0].pairs(one) })
			b.ReportMetric(float64(m[0])/float64(m[1]), "ratio-1")
			b.ReportMetric(float64(m[0])/float64(m[2]), "ratio-1-C")
			what := "Acquire+Release, 1 client, " + string(kind)
			add(line{what, micros(m[0] / one), micros(m[1]/one) + " (two empty calls)", ratio(m[0], m[1]), "at most 1.3"})
			add(line{what + ", sd-bus", micros(m[0] / one), micros(m[2]/one) + " (two empty calls of a C service)",
				ratio(m[0], m[2]), "at most 1.15"})
			m = interleave(21, func() { together(service, many) }, func() { together(empty, many) },
				func() { together(emptyC, many) })
			b.ReportMetric(float64(m[1])/float64(m[0]), "throughput-8")
			b.ReportMetric(float64(m[2])/float64(m[0]), "throughput-8-C")
			what = "Acquire+Release, throughput of 8 clients, " + string(kind)
			add(line{what, perSecond(8*many, m[0]), perSecond(8*many, m[1]) + " (two empty calls)", ratio(m[1], m[0]),
				"at least 0.75"})
			add(line{what + ", sd-bus", perSecond(8*many, m[0]), perSecond(8*many, m[2]) +
				" (two empty calls of a C service)", ratio(m[2], m[0]), "at least 0.90"})
		})
	}
}

func perSecond(n int, d time.Duration) string {
	return fmt.Sprintf("%.0f/s", float64(n)/d.Seconds())
}

const (
	few  = 100
	lots = 100_000
)

// (b) and (c): the effect of a hundred thousand locks.
func BenchmarkManyLocks(b *testing.B) {
	var sites [2]*site
	var clients [2]*caller
	for i, n := range []int{few, lots} {
		sites[i] = newSite(b, testbus.Daemon)
		sites[i].start(b)
		clients[i] = sites[i].caller(b, serviceName, "disk")
		clients[i].join()
		clients[i].fill(n)
	}
	const n = 200
	m := interleave(31, func() { clients[1].pairs(n) }, func() { clients[0].pairs(n) })
	b.ReportMetric(float64(m[0])/float64(m[1]), "ratio")
	add(line{
		"Acquire+Release with 100,000 locks held", micros(m[0] / n), micros(m[1]/n) + " (100 held)", ratio(m[0], m[1]),
		"at most 1.2",
	})

	var raw [2]*varlinkCaller
	for i, s := range sites {
		raw[i] = dialVarlink(b, s.varlinkSocket(), "disk")
	}
	const many = 1000
	m = interleave(31, func() { raw[1].pairs(many) }, func() { raw[0].pairs(many) })
	b.ReportMetric(float64(m[0])/float64(m[1]), "ratio-varlink")
	add(line{
		"Acquire+Release over Varlink with 100,000 locks held", micros(m[0] / many), micros(m[1]/many) + " (100 held)",
		ratio(m[0], m[1]), "at most 1.03",
	})
	for _, c := range raw {
		_ = c.conn.Close()
	}

	restart := func(i int) func() {
		return func() {
			sites[i].kill()
			sites[i].start(b)
		}
	}
	m = interleave(5, restart(1), restart(0))
	b.ReportMetric(m[0].Seconds(), "s-activation")
	add(line{
		"activation after kill -9, 100,000 locks", fmt.Sprintf("%.2f s", m[0].Seconds()),
		fmt.Sprintf("%.3f s (100 locks)", m[1].Seconds()),
		"", "under 1.5 s",
	})
	b.ReportMetric(float64(resident(b, sites[1])-resident(b, sites[0]))/(lots-few), "resident-B/lock")
}

// resident is the memory of a daemon in bytes (proc(5), VmRSS).
func resident(tb testing.TB, s *site) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	must(tb, err)
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "VmRSS:" {
			kb, err := strconv.Atoi(f[1])
			must(tb, err)
			return kb << 10
		}
	}
	tb.Fatal("no VmRSS")
	return 0
}

// contents is a state file with n locks.
func contents(n int) state.Contents {
	c := state.Contents{
		Header: state.Header{BootID: "bench"}, NextID: uint64(n) + 1,
		Spaces: []state.Lockspace{{Name: space, Phase: state.Joined, AnchorID: 1}},
	}
	for i := range n {
		c.Locks = append(c.Locks, state.Lock{
			ID: uint64(i) + 1, Lockspace: space, Resource: fmt.Sprintf("disk-%d", i), LockID: dlm.LockID(i) + 2,
			Mode:  dlm.EX,
			Phase: state.Held, Token: 1, Owner: fmt.Sprintf("vm-%d", i), HasOwner: true,
			Label: fmt.Sprintf("/images/disk-%d.qcow2", i),
			UID:   1000, PID: 4711, Session: ":1.42", SessionBus: "bus", Since: time.Now(),
		})
	}
	return c
}

func orphans(c state.Contents) []dlm.Orphan {
	held := []dlm.Orphan{{LockID: 1, Resource: api.AnchorName("bench"), Mode: dlm.NL}}
	for _, l := range c.Locks {
		held = append(held, dlm.Orphan{LockID: l.LockID, Resource: l.Resource, Mode: l.Mode})
	}
	return held
}

type nowhere struct{}

func (nowhere) Append([]state.Change) error { return nil }
func (nowhere) Health() error               { return nil }
func (nowhere) Tend()                       {}

// (c) the service's heap for each lock, after activation, without the lock manager, which for the
// engine dlm is in the kernel.
func BenchmarkHeap(b *testing.B) {
	engine := local.New("bench")
	must(b, engine.Restore(space, orphans(contents(lots))))
	before := heap()
	s := lockd.New(lockd.Config{Engine: engine, Journal: nowhere{}, Contents: contents(lots), BootID: "bench",
		Instance: "bench"})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	if n := s.Status().Locks; n != lots {
		b.Fatalf("%d locks were adopted", n)
	}
	perLock := (heap() - before) / lots
	cancel()
	must(b, <-ended)
	b.ReportMetric(float64(perLock), "heap-B/lock")
	add(line{"heap of the service for each lock held", fmt.Sprintf("%d bytes", perLock), "", "", "under 1 KiB"})
}

// heap returns the heap in use after a garbage collection.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// (d) one record of the state file, compared with a bare write of as many bytes.
func BenchmarkStateRecord(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "dlmlockd-bench")
	must(b, err)
	defer func() { _ = os.RemoveAll(dir) }()
	f, _, err := state.Open(filepath.Join(dir, "state"), state.Options{
		Header: state.Header{BootID: "bench", NodeID: 1, Engine: "local"}, CompactMin: 1 << 40,
		Log: slog.New(slog.DiscardHandler),
	})
	must(b, err)
	defer func() { _ = f.Close() }()
	record := state.Lock{
		ID: 1, Lockspace: space, Resource: "disk1", LockID: 7, Mode: dlm.EX, Phase: state.Granted, Token: 1,
		Owner: "web", HasOwner: true,
		Label: "/images/disk1.qcow2", UID: 1000, PID: 4711, Session: ":1.42", SessionBus: "d8506a40a1288a003cccf1bc6b03696e",
		Since: time.Now(),
	}
	before := size(b, f.Path())
	must(b, f.Append([]state.Change{record}))
	same := make([]byte, size(b, f.Path())-before)
	bare, err := os.OpenFile(filepath.Join(dir, "bare"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(b, err)
	defer func() { _ = bare.Close() }()

	const n = 2000
	m := interleave(31,
		func() {
			for range n {
				must(b, f.Append([]state.Change{record}))
			}
		},
		func() {
			for range n {
				_, err := bare.Write(same)
				must(b, err)
			}
		})
	runtime.KeepAlive(same)
	b.ReportMetric(float64(m[0].Nanoseconds())/n, "ns/record")
	add(line{
		fmt.Sprintf("one record of the state file, %d bytes, tmpfs", len(same)), micros(m[0] / n), micros(m[1]/n) +
			" (a bare write)",
		ratio(m[0], m[1]), "under 15 us",
	})
}

// size returns the length of a state file without its padding.
func size(tb testing.TB, path string) int64 {
	text, err := os.ReadFile(path)
	must(tb, err)
	return int64(len(bytes.TrimRight(text, "\n"))) + 1
}
