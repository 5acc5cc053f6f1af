// Package peer puts a dlm.Engine into another process: Serve offers one over a
// pair of streams, and Client is a dlm.Engine that uses it.
//
// It owns the messages between the two. It refuses to know which engine it is
// and how the streams come about: in the lab they are the standard input and
// output of cmd/dlmpeer on a node, so that the rules of dlm/dlmtest, and
// stories about processes that die, can be told by a test on the host.
//
// Concurrency: a Client may be used from any goroutine, like every engine. Its
// sinks are called on the goroutine that reads the stream.
package peer
