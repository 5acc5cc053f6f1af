// Package bench measures on a node of the lab what the service and its engine
// cost on the kernel's DLM, each time against bare libdlm in C (bare/bare.c)
// doing the same on the same node in the same run. "make bench-lab" runs it and
// writes its part of docs/benchmarks.md.
//
// It owns the measurements. It refuses to know how anything is implemented, and
// passes or fails nothing: emulated machines differ even more than others.
//
// Concurrency: one measurement at a time.
package bench
