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
// The way of a call: the reader goroutine takes it off the connection (wire.go,
// message.go), finds the method (tree.go), parses the arguments, and puts it in
// the line of its sender (peer.go). One goroutine per busy sender learns the
// credentials, waits for the user's turn (desk.go), authorises and hands the
// calls to the service in the order they came, so a slow authorisation holds up
// nobody else. The service's answer, given on its own goroutine, goes to the
// outbox (outbox.go), whose goroutine writes a user's replies and signals in the
// order they were given, and those of different users in turns.
//
// godbus makes the connection, reads what is not a call and writes what is not
// long (encode.go).
// It never sees a call: it runs each in a goroutine of its own, answers by
// itself, and can be made to end the connection by what it can't decode.
//
// Concurrency: the exported methods may be called from any goroutine. Notify
// never blocks.
package dbus
