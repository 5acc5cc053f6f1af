// Package lab runs several real DLM nodes on one machine: each node is a QEMU
// machine with Debian's own kernel and the host's root file system, and tests
// drive them from ordinary "go test".
//
// It owns the life of a cluster: the lock that keeps two labs from sharing one
// machine, the images, the Ethernet between the nodes, starting, crashing and
// fencing them, corosync and dlm_controld, and the artefacts that are left.
//
// It refuses to know dlmlockd: what the nodes are for is the tests' business.
//
// Concurrency: the methods of Cluster and Node may be called from any
// goroutine; starting and ending the same node at the same time is the
// caller's mistake.
//
// Nothing boots unless LAB=1 is in the environment, see README.md.
package lab
