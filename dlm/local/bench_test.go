package local

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// holding opens a lockspace with n locks held in it, as the daemon holds them.
func holding(tb testing.TB, n int) (*Engine, dlm.Lockspace) {
	e := New("bench")
	ls, err := e.Create(tb.Context(), "bench", func(dlm.Event) {})
	require.NoError(tb, err)
	value := dlm.Value{1}
	for i := range n {
		c := dlm.Cookie(i + 1)
		ls.Lock(c, fmt.Sprintf("held-%08d", i), dlm.EX, dlm.NoQueue)
		ls.Convert(c, dlm.EX, dlm.Persistent|dlm.ValueBlock, &value)
	}
	return e, ls
}

func BenchmarkLockUnlock(b *testing.B) {
	for _, n := range []int{0, 100, 100_000} {
		b.Run(fmt.Sprintf("held=%d", n), func(b *testing.B) {
			_, ls := holding(b, n)
			b.ReportAllocs()
			for b.Loop() {
				ls.Lock(1<<40, "the resource", dlm.EX, dlm.NoQueue)
				ls.Unlock(1<<40, nil)
			}
		})
	}
}

func BenchmarkConvert(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprintf("held=%d", n), func(b *testing.B) {
			_, ls := holding(b, n)
			value := dlm.Value{2}
			b.ReportAllocs()
			for b.Loop() {
				ls.Convert(1, dlm.EX, dlm.Persistent|dlm.ValueBlock, &value)
			}
		})
	}
}

// BenchmarkSharedLock takes one more PR lock on a resource that n others hold.
func BenchmarkSharedLock(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("holders=%d", n), func(b *testing.B) {
			_, ls := holding(b, 0)
			for i := range n {
				ls.Lock(dlm.Cookie(i+1), "image", dlm.PR, dlm.NoQueue)
			}
			b.ReportAllocs()
			for b.Loop() {
				ls.Lock(1<<40, "image", dlm.PR, dlm.NoQueue)
				ls.Unlock(1<<40, nil)
			}
		})
	}
}

// BenchmarkLowestFree frees the lowest of n lockids and takes it again.
func BenchmarkLowestFree(b *testing.B) {
	for _, n := range []int{100, 1_000_000} {
		b.Run(fmt.Sprintf("used=%d", n), func(b *testing.B) {
			var s idset
			for range n {
				s.take()
			}
			for b.Loop() {
				s.release(1)
				s.take()
			}
		})
	}
}

// BenchmarkRestoreAdopt seeds 100,000 orphans and adopts them all.
func BenchmarkRestoreAdopt(b *testing.B) {
	const n = 100_000
	seed := make([]dlm.Orphan, n)
	for i := range seed {
		seed[i] = dlm.Orphan{LockID: dlm.LockID(i + 1), Resource: fmt.Sprintf("held-%08d", i), Mode: dlm.EX}
	}
	for b.Loop() {
		e := New("bench")
		require.NoError(b, e.Restore("bench", seed))
		ls, err := e.Open(b.Context(), "bench", func(dlm.Event) {})
		require.NoError(b, err)
		for i := range seed {
			ls.Adopt(dlm.Cookie(i+1), seed[i].Resource, dlm.EX, dlm.Persistent)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/lock")
}

// TestMemoryPerLock holds the engine to its share of the daemon's 1 KiB for
// one lock: lock, resource, value block and maps, without the caller's name.
func TestMemoryPerLock(t *testing.T) {
	const n, most = 100_000, 300
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("held-%08d", i)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	e := New("memory")
	ls, err := e.Create(t.Context(), "memory", func(dlm.Event) {})
	require.NoError(t, err)
	value := dlm.Value{1}
	for i, name := range names {
		ls.Lock(dlm.Cookie(i+1), name, dlm.EX, dlm.NoQueue)
		ls.Convert(dlm.Cookie(i+1), dlm.EX, dlm.Persistent|dlm.ValueBlock, &value)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	perLock := int64(after.HeapAlloc-before.HeapAlloc) / n
	t.Logf("%d bytes per lock", perLock)
	require.Less(t, perLock, int64(most))
	runtime.KeepAlive(ls)
	runtime.KeepAlive(names)
}
