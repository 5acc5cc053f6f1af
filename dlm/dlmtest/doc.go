// Package dlmtest is the conformance suite of package dlm: the behaviour that every engine must
// have, with a subtest for each rule, named after it.
//
// It owns the rules, and Events, a recorder for a dlm.Sink. It does not know which engine it runs
// on: a Rig stands for the place, which is a dlm/local cluster in this process or helper processes
// on the nodes of a real cluster. Rules come from the kernel's fs/dlm (file and function are named
// if they are not obvious) and from the comments of dlm.Engine and dlm.Lockspace.
//
// Every rule uses its own resource names, so all can share one lockspace, and a rule that fails
// does not disturb the next. A rule asserts that something does not happen after waiting for
// Timing.Settle at most.
//
// Concurrency: Events may be used from any goroutine. Run runs one rule after the other.
package dlmtest
