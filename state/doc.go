// Package state keeps the map of locks in one TOML file, which survives the daemon.
//
// It owns the state directory and everything in it: the schema of the file, the check value of each
// record, appending, compaction and the quarantine of damage, and it refuses what it does not
// understand. Nothing else in the program touches that directory. What a record means for a lock is
// not its business: lockd decides which record becomes a lock again. docs/state-file.md describes
// the schema for administrators, and what a crash between any two steps leaves behind.
//
// A file is a header, a copy of the header, and records in the order in which they were written.
// Each of these ends with a line check = "..." over exactly its own bytes, so a record can be
// moved, dropped or kept without regard to its neighbours. The check is CRC-32C, which finds every
// change of up to 32 bits in a row and for which the usual processors have an instruction. It
// guards against accidents; the mode of the directory guards against people.
//
// The loader accepts only text that the encoder would have written, byte for byte. So the encoder
// defines the format, and nothing is loaded that was not written.
//
// Behind the last record there is padding, which always has room for everything that still has to
// be written about the locks and lockspaces in the file (need.go). A change is written over it
// (pad.go), so the end of a lock can be recorded even when the file system is full.
//
// The whole map is in memory as well (mirror.go). If somebody removes, cuts or edits the file while
// it is open, it is written again from there.
//
// There is no fsync (docs/decisions/no-fsync.md): the directory is on a tmpfs, and wherever it is,
// the locks end with the node, so after a power failure there is nothing left that a record could
// describe.
//
// Concurrency: only one goroutine at a time may call Append, Tend and Close. Any goroutine may call
// Health, Epoch and NoteEpoch. A compaction runs on a goroutine of its own. Everything else is
// plain data.
package state
