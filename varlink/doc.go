// Package varlink is the Varlink door: it turns calls that come over a socket
// into methods of package frontend, and their results into replies and errors.
//
// It owns the Varlink interfaces of the service: the names of methods, fields and
// errors, whose documented source is data/org.example.DlmLock.varlink (a test
// holds the types here against it), and what a connection means: locks of
// lifetime connection end with it, a call that waits is canceled by closing it,
// and an Acquire that goes on after its grant tells its caller, and nobody
// else, what becomes of the lock. It refuses to know how messages look and how
// connections are read, which is package wire's, and who may do what.
//
// Each connection is a session of the service ("varlink:INSTANCE/7"), and so is
// each file descriptor that a lock of lifetime descriptor hangs on
// ("varlink:INSTANCE/7.2"). INSTANCE is made anew with each start of the service:
// the next start releases the locks that hung on them, unless they were kept
// (keep.go, restore.go).
//
// The way of a call: package wire has Serve run on a goroutine of the
// connection, with one call at a time. Serve reads the parameters, submits the
// method to the session, and writes the replies, which whoever answers puts into
// the call's queue.
//
// Concurrency: the exported methods of a Door may be called from any goroutine.
package varlink
