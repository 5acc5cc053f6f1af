package main

import (
	"os"
	"runtime/debug"
	goruntime "runtime/metrics"
)

// startGC is how far the heap may grow between two garbage collections while records are adopted, in
// percent of what is in use (runtime/debug, SetGCPercent). Until that has ended nearly everything that
// is allocated stays, so a collection finds little. Collecting is not switched off, because a
// lockspace may take minutes to be joined.
const startGC = 400

// largeHeap is from how many bytes of heap on memory is returned to the system at the end of a start.
const largeHeap = 16 << 20

// gcPace is how often garbage is collected during a start. Where the administrator has set GOGC, that
// counts.
type gcPace struct {
	usual int  // what SetGCPercent had before the start
	leave bool // it is left as it is
}

// hurryGC has no garbage collected while the state file is read. That waits for nobody, and what it
// allocates is the records. A collection in the middle would read the memory that is reserved for
// further records: the kernel gives a page of zeros for that, and has to replace it, on all
// processors, when it is written to, which made a third of the time that reading takes.
func hurryGC() gcPace {
	if os.Getenv("GOGC") != "" {
		return gcPace{leave: true}
	}
	return gcPace{usual: debug.SetGCPercent(-1)}
}

// adopting has garbage collected again, but less often than usual.
func (p gcPace) adopting() {
	if !p.leave {
		debug.SetGCPercent(startGC)
	}
}

// end goes back to the usual, and returns to the system what only the start has needed.
func (p gcPace) end() {
	if p.leave {
		return
	}
	heap := []goruntime.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	goruntime.Read(heap)
	if heap[0].Value.Kind() != goruntime.KindUint64 || heap[0].Value.Uint64() <= largeHeap {
		debug.SetGCPercent(p.usual)
		return
	}
	go func() {
		debug.FreeOSMemory() // it takes as long as a collection does
		debug.SetGCPercent(p.usual)
	}()
}
