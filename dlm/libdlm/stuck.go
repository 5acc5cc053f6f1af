package libdlm

import "time"

// A request can be stuck in the kernel (on 6.1, 6.12 and 7.2, docs/kernel-bugs/07.md). The first
// request of a node for a resource asks the directory node for the master, and the others for that
// resource wait in a list until it knows. If the first is canceled while it asks, and the node that
// it asks fails, the recovery ends it and forgets that others wait for it
// (dlm_recover_waiters_post does not call confirm_master): they wait forever, and so does every
// later request of this node for that resource, even one with NOQUEUE. A cancel takes a request out
// of that list. When the last is out, the resource is left without a master (masterless.go).
//
// No request of this process is canceled while it asks (cancel.go). But the kernel ends the requests
// of a process that dies as if they were canceled, and those of the next process get stuck. So a
// request with NOQUEUE that was to be canceled and has not ended after a while is canceled after
// all, again and again. Such a cancel could hit another lock that has got its lockid: not one of
// this handle, because those are compared in the queue of the calls that assign lockids, but one of
// another program that uses the lockspace, if the result that frees the lockid arrives at just that
// moment. After so long a time, it does not.

// stuckWait is how long a request with NOQUEUE may go on after it was to be canceled. It has to be
// longer than a cluster needs to notice that a node has failed: a request that waits for such a node
// ends after the recovery, and must not be canceled before it.
const stuckWait = time.Minute

// cancelIfStuck sends a cancel later. It is void if the operation has ended by then.
func (s *lockspace) cancelIfStuck(call kernelCall) {
	time.AfterFunc(stuckWait, func() { s.calls.Add(call) })
}
