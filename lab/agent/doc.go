// Package agent runs commands in a lab node on behalf of the host, over one
// byte stream (in the lab: a virtio-serial port).
//
// It owns the protocol between the two: a yamux session whose streams are one
// job each, a process, a file or a connection. [Serve] is the node's half,
// [Client] the host's.
//
// It refuses to know what a cluster is, how a node boots and what is run.
//
// Concurrency: a Client and its Processes may be used by any number of
// goroutines. A job lives as long as its stream: when the host goes away or
// closes it, the process group of the job is killed.
package agent
