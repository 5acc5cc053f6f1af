// Package peers asks the services of other nodes what locks they have, and answers them
// (docs/design.md, section 9).
//
// It owns the messages between the services, the questions that are open here and those that wait
// for an answer, and the limits of all of them. It only reads: of the service it knows List and
// Inspect. It does not know how messages travel (a Link; the one to corosync leads through the
// relay of peers/cpg), and decides nothing about locks.
//
// Concurrency: Peers may be used from any goroutine, and never blocks its callers. Run owns the
// link, with one goroutine that reads, one that writes, and one that answers the questions of
// others one after the other, so that a flood of them costs the service little.
package peers
