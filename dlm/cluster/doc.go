// Package cluster looks at the kernel's DLM and at dlm_controld from the
// outside: who this node is, which lockspaces it is in and how they do, and who
// has which lock.
//
// It owns the formats: configfs and sysfs of the DLM, the tables that fs/dlm
// shows in debugfs, and the query protocol of dlm_controld. It only reads, asks
// for no lock, and needs no cgo. It refuses to know who a lock is for and what
// to do about anything.
//
// What can't be seen (debugfs under lockdown, dlm_controld not running) is left
// out, and the answer says so: a poorer answer, never a wrong one.
//
// Concurrency: a Host has no state. Every method may be called from any
// goroutine and may block on files and on the socket of dlm_controld, on the
// latter for two seconds at most.
package cluster
