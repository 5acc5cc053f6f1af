// Command dlmlockd is the lock service as a process: it reads the command line and the
// configuration, puts the parts together in the order that design.md section 4 requires, and
// reports its state to systemd.
//
// It owns the flags, the exit codes, the log's destination, the signals and the communication with
// systemd. It does not know what a lock is: everything about locks is package lockd's business,
// everything about the bus package dbus's.
//
// Concurrency: run starts the parts and waits for the first of them to end; nothing here is used by
// two goroutines without a channel between them.
package main
