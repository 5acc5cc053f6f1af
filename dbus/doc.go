// Package dbus is the door to the service on D-Bus: it turns method calls into
// methods of package frontend, and what the service says into replies, errors
// and signals.
//
// It owns the connection to the bus, the bus name, the object tree, the decoding
// of arguments, the spelling of options, the names and texts of errors, and the
// order in which answers and signals are written. The text of the interface is
// data/org.example.DlmLock.xml; a test holds the tables here against it. The
// package refuses to know who holds which lock, what a caller may do and whose
// turn it is: that is frontend's and the service's.
//
// The way of a call: the reader goroutine takes it off the connection (wire.go,
// message.go), finds the method (tree.go), decodes the arguments, and submits it
// to the session of its sender. frontend calls serve when it is the call's turn.
// The service's answer, given on its own goroutine, goes to the send queue
// (sendqueue.go), whose goroutine writes a user's replies and signals in the order
// they were given, and those of different users in turns.
//
// godbus makes the connection, reads what is not a call and writes what is not
// long (encode.go). It never sees a call: it runs each in a goroutine of its own,
// answers by itself, and can be made to end the connection by what it can't
// decode.
//
// Concurrency: the exported methods may be called from any goroutine. Notify
// never blocks.
package dbus
