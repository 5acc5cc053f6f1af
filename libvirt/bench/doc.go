// Package bench measures the lock driver side by side with libvirt's own,
// virtlockd, in tables for docs/benchmarks.md. It is run by "make bench-libvirt".
//
// It owns what the numbers mean. One program (libvirt/driver) drives both as
// libvirtd does, and they take turns in one run. It refuses to judge them: nothing
// fails when a number changes.
//
// Concurrency: none; what runs at the same time is inside the measured programs.
package bench
