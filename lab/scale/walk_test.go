package scale

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// entry has the size of the kernel's struct dlm_rsb and, like it, a link and flags in different lines
// of the cache.
type entry struct {
	flags uint64
	_     [200]byte
	next  *entry
	_     [112]byte
}

// BenchmarkWalk calibrates Recovery.GrantSteps: how long this machine takes, outside the kernel, to
// pass an entry of a list, if the entries were allocated one after the other, and in random order.
func BenchmarkWalk(b *testing.B) {
	for _, n := range []int{10_000, 100_000, 1_000_000} {
		entries := make([]entry, n)
		order := make([]int, n)
		for i := range order {
			order[i] = i
		}
		for _, name := range []string{"in order", "random"} {
			for i, at := range order[:n-1] {
				entries[at].next = &entries[order[i+1]]
			}
			entries[order[n-1]].next = nil
			b.Run(fmt.Sprintf("%d/%s", n, name), func(b *testing.B) {
				found := 0
				for b.Loop() {
					for e := &entries[order[0]]; e != nil; e = e.next {
						if e.flags != 0 {
							found++
						}
					}
				}
				if found > 0 {
					b.Fatal("no entry has flags")
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/step")
			})
			rand.Shuffle(n, func(i, k int) { order[i], order[k] = order[k], order[i] })
		}
	}
}
