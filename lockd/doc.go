// Package lockd is the lock service: it drives the table (lockd/table), which
// makes all decisions.
//
// It owns what the table refuses to know: the handles of the lockspaces, the
// functions that answer calls, the clock, the processes that calls hold, and the
// goroutines. The owner, one goroutine at a time (drive.go), feeds the table and has
// its actions carried out by others: the journal (lockd/journal) writes the state
// file, the engine drives the lock manager, workers join and leave lockspaces and
// look at the engine's tables, and the front end's functions send the answers. The
// owner does nothing that can be slow.
//
// lockd refuses to know how a request arrived (D-Bus, Varlink), who is allowed
// what (see api.Authorizer), how a record looks in the file, and how the lock
// manager is reached.
//
// Concurrency: the methods of Service may be called from any goroutine and
// never block; each takes a function that gets the answer. That function, like
// the Notify of the Config, is called once, by the owner, which may be the goroutine
// that has called Acquire, Convert or one of the releases, now or later: it must not
// block and may call the Service.
package lockd
