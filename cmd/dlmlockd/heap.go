package main

import (
	"os"
	"runtime/debug"
	goruntime "runtime/metrics"
)

// startGC is how far the heap may grow between two garbage collections while records are adopted, in
// percent of what is in use (runtime/debug, SetGCPercent). During the adoption nearly everything that
// is allocated stays in use, so a collection frees little. It is not switched off, because joining a
// lockspace may take minutes.
const startGC = 400

// largeHeap is how many bytes the heap must exceed for memory to be returned to the system at the end
// of a start.
const largeHeap = 16 << 20

// headroom is memory that is never touched, so it takes no pages, but the garbage collector counts it
// as in use. The collector lets the heap grow by as much as is in use, and by 4 MiB at least. That is
// little for a service with few locks: a client that calls as fast as it can leaves 9 KB of garbage
// with each pair of calls, which caused 50 collections a second. They took a seventh of the processor
// time, and each delays the call that is under way. With headroom the service takes 6 MiB more; twice
// as much headroom would save a third more.
var headroom []byte

const headroomBytes = 8 << 20

// gcPace controls how often garbage is collected during a start. If the administrator has set GOGC,
// that setting stays.
type gcPace struct {
	usual int  // the percentage before the start
	leave bool // the setting is left as it is
}

// hurryGC switches garbage collection off while the state file is read. Reading waits for nobody, and
// it allocates little but the records. A collection meanwhile would read the memory that is reserved
// for further records. The kernel would map pages of zeros for that, and would have to replace each on
// all processors when it is written to, which took a third of the time that reading takes.
func hurryGC() gcPace {
	if os.Getenv("GOGC") != "" {
		return gcPace{leave: true}
	}
	if headroom == nil {
		headroom = make([]byte, headroomBytes)
	}
	return gcPace{usual: debug.SetGCPercent(-1)}
}

// adopting switches garbage collection on again, but less often than usual.
func (p gcPace) adopting() {
	if !p.leave {
		debug.SetGCPercent(startGC)
	}
}

// end restores the usual pace, and returns to the system the memory that only the start needed.
func (p gcPace) end() {
	if p.leave {
		return
	}
	heap := []goruntime.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	goruntime.Read(heap)
	if heap[0].Value.Kind() != goruntime.KindUint64 || heap[0].Value.Uint64() <= largeHeap+headroomBytes {
		debug.SetGCPercent(p.usual)
		return
	}
	go func() {
		debug.FreeOSMemory() // it takes as long as a collection does
		debug.SetGCPercent(p.usual)
	}()
}
