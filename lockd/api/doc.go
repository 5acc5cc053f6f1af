// Package api owns the words and the interface that the lock service and its front
// ends share: what a caller asks for, what it gets, how a call can fail, what the
// service says unasked, and the question whether somebody may do something.
//
// It holds values only. Nothing in it runs: package lockd implements [Service],
// and the front ends call it. All of its types may be copied and read by any
// number of goroutines; whoever passes a slice or a pointer on gives it away.
package api
