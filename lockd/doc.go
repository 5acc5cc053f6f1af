// Package lockd is the lock service: who holds which lock, and what has to
// happen, in which order, when somebody wants one.
//
// Its heart is the table, a pure state machine: events in, ordered actions
// out, no clock, no I/O, no goroutine, no log. Around it stands the Service:
// one owner goroutine that feeds the table and has its actions carried out by
// others: the journal goroutine writes the state file, the engine drives the
// lock manager, a worker joins and leaves lockspaces, and the front end's
// callbacks send the answers. Nothing that can be slow runs in the owner
// goroutine.
//
// lockd refuses to know how a request arrived (D-Bus, Varlink), who is allowed
// what (see Authorizer), how a record looks in the file, and how the lock
// manager is reached.
//
// Concurrency: the methods of Service may be called from any goroutine and
// never block; each takes a function that gets the answer. That function, like
// the Notify of the Config, is called once, on the owner goroutine: it must not
// block and may call the Service.
package lockd
