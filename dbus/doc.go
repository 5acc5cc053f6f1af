// Package dbus is the D-Bus front end: it turns method calls into calls of
// lockd.API, and what the service says into replies, errors and signals.
//
// It owns the connection to the bus, the bus name, the object tree, the
// parsing and validation of arguments and options, the credentials of callers,
// the order of each caller's requests, and the names of errors. The text of
// the interface is data/org.example.DlmLock.xml; a test holds the tables here
// against it. The package refuses to know who holds which lock and what a
// caller may do: it asks lockd.API and lockd.Authorizer.
//
// The way of a call: the reader goroutine takes it off the connection, finds
// the method, parses the arguments (parse*.go), and puts it in the line of its
// sender (peer.go). One goroutine per busy sender learns the credentials,
// authorises and hands the calls to the service in the order they came, so a
// slow authorisation holds up nobody else. The service's answer, given on its
// own goroutine, goes to the outbox (outbox.go), whose goroutine writes
// replies and signals in the order they were given.
//
// godbus runs every call in a goroutine of its own and answers by itself. So
// no call ever reaches its dispatcher: the incoming interceptor, which runs in
// the reader and in order, takes them all (bus.go).
//
// Concurrency: the exported methods may be called from any goroutine. Notify
// never blocks.
package dbus
