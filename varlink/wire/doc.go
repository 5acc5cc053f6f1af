// Package wire is the server's side of the Varlink protocol (varlink.org,
// "Protocol"): JSON objects, each ended by a NUL byte, on a stream socket.
//
// It owns the connections: who the peer is, the reading and its limits, the
// order of the calls, the writing of the replies, and the end of a connection.
// It owns strict JSON, too: what encoding/json lets through (keys in any case,
// keys that come twice, keys that nobody knows, broken UTF-8, numbers that are
// not exact) is refused here, because a lock service must not guess.
// It refuses to know methods, interfaces and errors, with the exception of the
// errors that a call gets that can't be read.
//
// The way of a call: the connection's reader takes it off the socket (conn.go),
// finds its end, reads the envelope (message.go), and puts it in the
// connection's queue. The connection's second goroutine takes the calls out one
// by one and has the Handler serve each; a Varlink connection has one call at a
// time. The reader reads on meanwhile, up to a limit, so that a client's death
// is noticed at once while a call waits.
//
// A client that has only ended its own side of the connection (shutdown(2) with
// SHUT_WR, as netcat does) gets its answers; then the connection is closed.
// A client that is gone altogether ends the context of its calls. Of the calls
// that it had sent before, those that want no answer (oneway) are served, and
// the others are dropped, as a message bus does.
//
// Descriptors that come with a message are never taken: they are read with
// read(2), so the kernel drops them, and where it can (SO_PASSRIGHTS) it refuses
// them to the sender.
//
// Concurrency: a Server may be used from any goroutine. The methods of a Call
// are for the goroutine that serves it.
package wire
