// Package cluster looks at the kernel's DLM and at dlm_controld from the outside: which node this
// is, what the nodes are called, which lockspaces it is in and in which state they are, and who has
// which lock.
//
// It owns the formats: configfs and sysfs of the DLM, the tables that fs/dlm shows in debugfs, the
// nodelist of corosync.conf, and the query protocol of dlm_controld. It only reads, requests no
// lock, and needs no cgo. It does not know who a lock is for, and decides nothing.
//
// What can't be seen (debugfs under lockdown, dlm_controld not running) is left out, and the answer
// says so: an incomplete answer, never a wrong one.
//
// Concurrency: a Host has no state. Every method may be called from any goroutine and may block on
// files, and for two seconds at most on the socket of dlm_controld.
package cluster
