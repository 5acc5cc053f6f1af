// Package state keeps the map of locks in one TOML file, so that it survives
// the daemon.
//
// It owns the file: its schema, the check value of each record, appending,
// compaction, quarantine of damage, the refusal of what it does not
// understand. It is the only door to the state directory. It refuses to know
// what a record means for a lock: which record becomes a lock again is the
// business of lockd.
//
// Concurrency: one goroutine at a time may call Append; Compact runs in the
// background by itself. Everything else is plain data.
package state
