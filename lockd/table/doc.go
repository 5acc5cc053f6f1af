// Package table is the heart of the lock service: who holds which lock, and what
// has to happen, in which order, when somebody wants one. It is a pure state
// machine. Events go in through the methods of Table, and ordered Actions come
// out of EndTurn.
//
// It owns every decision: the order of events of each operation, with what a crash
// leaves after each step; the order of the calls of one session; the limits; what
// becomes of records and lockspaces at a start; and when something that failed is
// tried again.
//
// It refuses to know handles of the engine, callbacks of front ends, clocks,
// goroutines, files and logs. Lockspaces, calls, appends and looks are numbers, of
// which the driver (package lockd) keeps what belongs to them. The time comes with
// SetTime. internal/conventions holds the package to that: it may import nothing
// that blocks, waits or tells the time.
//
// Concurrency: a Table is not safe for concurrent use. The driver does one turn
// after another: SetTime, one method that takes an event, EndTurn; and it carries
// out the actions of a turn before it begins the next one.
package table
