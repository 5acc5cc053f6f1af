// Package local is a lock manager of its own behind the port of package dlm:
// the engine that dlmlockd uses with --engine=local, and a cluster of
// simulated nodes for tests.
//
// It owns the lock tables: the three queues of each resource in the order of
// the kernel's fs/dlm (resource.go, which is a function of its input without
// clock, goroutine or I/O), lockids, lock value blocks, orphans, and who is a
// member of which lockspace. It refuses to know the network, a clock, files,
// who a lock is for, and what became of it after a restart: a caller that
// wants locks to survive the process writes them down and hands them to
// Engine.Restore.
//
// The parts, from the outside in: a Cluster has Nodes, a Node runs Engines
// (one per simulated process), an Engine has open lockspace handles, and each
// lock belongs to a handle or is an orphan of its node.
//
// What differs from the kernel, on purpose:
//   - A resource that nobody has a lock on is forgotten at once, with its
//     lock value block. The kernel may remember it for some seconds.
//   - A persistent request that still waits when its process ends is dropped.
//     The kernel leaves a ghost that a later purge stumbles over.
//   - The locks of a process end all at one instant, and only then is
//     anything granted to others. The kernel goes from lock to lock.
//   - Lockids are the lowest free number among the locks of the node. In the
//     kernel the copies that it keeps of other nodes' locks take numbers too.
//   - A process that ends while the lockspace is stopped leaves its orphans at
//     once. In the kernel its exit waits until the lockspace resumes.
//
// Concurrency: one mutex per Cluster guards everything. No goroutine is ever
// started: events are delivered by whoever made the call that caused them,
// after the mutex is released, in order for each handle. Every method may be
// called from any goroutine, except from inside a dlm.Sink.
package local
