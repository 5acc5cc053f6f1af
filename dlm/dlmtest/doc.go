// Package dlmtest is the conformance suite of package dlm: what an engine does
// if it is one, with a subtest for each rule, named after it.
//
// It owns the rules and Events, a recorder of what a dlm.Sink is told. It
// refuses to know which engine it runs on: a Rig stands for the place, be it a
// dlm/local cluster in this process or helper processes on the nodes of a real
// one. Rules come from the kernel's fs/dlm (the file and function is named
// where it is not obvious) and from the comments of dlm.Engine and
// dlm.Lockspace.
//
// Every rule uses resource names of its own, so that all can share one
// lockspace, and a rule that fails does not disturb the next. That something
// does not happen is asserted after Timing.Settle at most.
//
// Concurrency: Events may be used from any goroutine. Run runs one rule after
// another.
package dlmtest
