// Package cpg copies messages between the service and one of corosync's closed process groups: the
// relay (docs/design.md, section 9). It runs as a process of its own, outside of the sandbox's
// network namespace.
//
// It owns libcpg, which it loads at run time, and the packets on the socket to the service. It does
// not know what the messages say.
//
// Concurrency: Serve has one connection at a time, on one thread, which is all that calls libcpg.
// Buffers are static or on the stack: C allocates nothing here, and libcpg frees what is its own
// when the connection ends.
package cpg
