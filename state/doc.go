// Package state keeps the map of locks in one TOML file, so that it survives
// the daemon.
//
// It owns the state directory and everything in it: the schema of the file,
// the check value of each record, appending, compaction, quarantine of damage,
// the refusal of what it does not understand. It is the only door to that
// directory. It refuses to know what a record means for a lock: which record
// becomes a lock again is the business of lockd. docs/state-file.md is the
// schema in an administrator's words, with what a crash between any two steps
// leaves behind.
//
// A file is a header, a copy of the header, and records in the order in which
// they were written. Each of these ends with a line check = "..." over exactly
// its own bytes, so that a record can be moved, dropped or kept without regard
// to its neighbours. The check is CRC-32C: it finds every change of up to 32
// bits in a row and has an instruction of its own on the machines that matter.
// It guards against accidents; against people, the directory's mode does.
//
// The loader takes only text that the encoder would have written, byte for
// byte. So the encoder defines the format, and nothing loads that was not
// written.
//
// Behind the last record there is padding, which always has the room for
// everything that is still to be written of what is in the file (need.go). A
// change is written over it (pad.go), so what lets go of a lock can be written
// down also when the file system is full.
//
// There is no fsync: the directory is on a tmpfs, and where it is not, the
// locks still die with the node, so there is nothing to find after a power
// failure that a sync could have saved.
//
// Concurrency: one goroutine at a time may call Append, Tend and Close; Health
// and the epoch may be asked for by any. Compaction runs in the background by
// itself. Everything else is plain data.
package state
