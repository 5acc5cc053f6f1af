package main

import (
	"os"
	"runtime/debug"
	goruntime "runtime/metrics"
)

// startGC is how far the heap may grow between two garbage collections during a start, in percent of
// what is in use (runtime/debug, SetGCPercent). Until the records are adopted nearly everything that
// is allocated stays, so a collection finds little. Collecting is not switched off, because the
// number of records has no limit.
const startGC = 400

// largeHeap is from how many bytes of heap on memory is returned to the system at the end of a start.
const largeHeap = 16 << 20

// hurryGC has fewer garbage collections made until end is called, which also returns to the system
// what only the start has needed. Where the administrator has set GOGC, that counts.
func hurryGC() (end func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	before := debug.SetGCPercent(startGC)
	return func() {
		debug.SetGCPercent(before)
		heap := []goruntime.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		goruntime.Read(heap)
		if heap[0].Value.Kind() == goruntime.KindUint64 && heap[0].Value.Uint64() > largeHeap {
			go debug.FreeOSMemory() // it takes as long as a collection does
		}
	}
}
