package lockd

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/teststate"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// holding starts a service in which n locks are held, each with an owner and a
// label as a hypervisor would give them.
func holding(tb testing.TB, n int) (*host, *daemon) {
	h := newHost(local.NewCluster("c").AddNode(1))
	h.config.Limits = api.DefaultLimits()
	h.config.Limits.LocksPerUID = 1_000_000
	d := h.start(tb)
	d.fill(tb, n)
	return h, d
}

func (d *daemon) fill(tb testing.TB, n int) {
	const batch = 1000
	for i := 0; i < n; i += batch {
		ended := make(chan error, batch)
		asked := 0
		for j := i; j < min(i+batch, n); j++ {
			o := api.AcquireOptions{Owner: fmt.Sprintf("1b4e28ba-2fa1-11d2-883f-%012d", j), HasOwner: true,
				Label: fmt.Sprintf("/var/lib/images/%d", j)}
			d.Acquire(root, []api.Want{wantOf("vms", fmt.Sprintf("disk-%08d", j), dlm.EX)}, o,
				func(_ []api.Grant, err error) { ended <- err })
			asked++
		}
		for range asked {
			require.NoError(tb, <-ended)
		}
	}
}

// BenchmarkAcquireRelease is one pair of calls while n locks are held. The
// second must not cost more than the first.
func BenchmarkAcquireRelease(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("held=%d", n), func(b *testing.B) {
			_, d := holding(b, n)
			defer d.stop()
			granted, released := make(chan error, 1), make(chan error, 1)
			want := []api.Want{wantOf("vms", "the disk", dlm.EX)}
			o := api.AcquireOptions{Owner: "vm1", HasOwner: true}
			sel := api.Selector{Owner: "vm1", HasOwner: true}
			doneAcquire := func(_ []api.Grant, err error) { granted <- err }
			doneRelease := func(err error) { released <- err }
			runtime.GC()
			b.ReportAllocs()
			for b.Loop() {
				d.Acquire(root, want, o, doneAcquire)
				if err := <-granted; err != nil {
					b.Fatal(err)
				}
				d.Release(root, "vms", "the disk", sel, doneRelease)
				if err := <-released; err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkShared is the pair on a resource with many holders.
func BenchmarkShared(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("holders=%d", n), func(b *testing.B) {
			_, d := holding(b, 0)
			defer d.stop()
			for i := range n {
				_, err := d.acquire(root, "image", dlm.PR, api.AcquireOptions{Owner: fmt.Sprint(i), HasOwner: true})
				require.NoError(b, err)
			}
			for b.Loop() {
				_, err := d.acquire(root, "image", dlm.PR, api.AcquireOptions{Owner: "vm1", HasOwner: true})
				require.NoError(b, err)
				require.NoError(b, d.release(root, "image", api.Selector{Owner: "vm1", HasOwner: true}))
			}
		})
	}
}

// BenchmarkPipelined is the throughput of one caller who does not wait for
// answers.
func BenchmarkPipelined(b *testing.B) {
	_, d := holding(b, 100)
	defer d.stop()
	const inFlight = 64
	free := make(chan struct{}, inFlight)
	for range inFlight {
		free <- struct{}{}
	}
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		<-free
		i++
		name := fmt.Sprint("disk", i%inFlight)
		d.Acquire(root, []api.Want{wantOf("vms", name, dlm.PR)}, api.AcquireOptions{}, func(g []api.Grant, err error) {
			if err != nil {
				panic(err)
			}
			d.Release(root, "vms", name, api.Selector{Ref: g[0].Ref}, func(error) { free <- struct{}{} })
		})
	}
	for range inFlight {
		<-free
	}
}

// BenchmarkActivate starts the service on 100,000 recorded locks.
func BenchmarkActivate(b *testing.B) {
	const n = 100_000
	h, d := holding(b, n)
	d.stop()
	for b.Loop() {
		start := time.Now()
		d := h.start(b)
		b.ReportMetric(time.Since(start).Seconds(), "s/start")
		b.StopTimer()
		require.Equal(b, n, d.Status().Locks)
		d.stop()
		b.StartTimer()
	}
}

func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemoryPerLock holds the table, the engine and the names to 1 KiB for each
// lock, both as it was acquired and as it was adopted. The state file in memory
// is not the daemon's and does not count.
func TestMemoryPerLock(t *testing.T) {
	const n, most = 100_000, 1024
	before := heapInUse()
	h, d := holding(t, n)
	perLock := (heapInUse() - before) / n
	records := recordsSize(t, h.journal)
	t.Logf("acquired: %d bytes for each lock, less %d for its record", perLock, records)
	require.Less(t, perLock-records, int64(most))
	d.stop()

	d = h.start(t)
	perLock = (heapInUse() - before) / n
	t.Logf("adopted: %d bytes for each lock, less %d for its record", perLock, records)
	require.Less(t, perLock-records, int64(most))
	d.stop()
	runtime.KeepAlive(h)
}

// recordsSize returns how much memory each record takes, by making a copy of them all.
// The strings are the table's as well.
func recordsSize(t *testing.T, j *teststate.Journal) int64 {
	before := heapInUse()
	copied := teststate.New()
	for _, l := range j.Locks {
		require.NoError(t, copied.Append([]state.Change{l}))
	}
	after := heapInUse()
	require.Len(t, copied.Locks, len(j.Locks))
	runtime.KeepAlive(copied)
	return (after - before) / int64(len(j.Locks))
}
