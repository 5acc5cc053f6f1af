// Package local is a lock manager behind the port of package dlm: the engine that dlmlockd uses
// with --engine=local, and a cluster of simulated nodes for tests.
//
// It owns the lock tables: the three queues of each resource in the order of the kernel's fs/dlm
// (resource.go, which is a function of its input without clock, goroutine or I/O), lockids, lock
// value blocks, orphans, and the membership in lockspaces. It knows neither network, clock nor
// files, nor who a lock is for, and nothing of what was before a restart: a caller that wants locks
// to survive the process records them and passes them to Engine.Restore.
//
// The parts, from the outside in: a Cluster has Nodes, a Node runs Engines (one per simulated
// process), an Engine has open lockspace handles, and each lock belongs to a handle or is an orphan
// of its node.
//
// Intended differences from the kernel:
//   - A resource on which nobody has a lock is forgotten at once, with its
//     lock value block. The kernel may remember it for some seconds.
//   - A persistent request that is still waiting when its process ends is
//     dropped. The kernel leaves a ghost that a later purge stumbles over.
//   - The locks of a process all end at one instant, and only then is anything
//     granted to others. The kernel ends one lock after the other.
//   - Lockids are the lowest free number among the locks of the node. In the
//     kernel the copies that it keeps of other nodes' locks use numbers too.
//   - A process that ends while the lockspace is stopped leaves its orphans at
//     once. In the kernel its exit waits until the lockspace resumes.
//
// Concurrency: one mutex per Cluster guards everything. No goroutine is ever started: the caller
// that causes events delivers them after the mutex is released, in order for each handle. Every
// method may be called from any goroutine, except from within a dlm.Sink.
package local
