package api

import "github.com/dlmlock/dlmlockd/dlm"

// Party is one side of a Wait: a lock of this node or of another one.
type Party struct {
	Node   uint32 // 0: not known who
	LockID dlm.LockID
	Mode   dlm.Mode // of the waiter: the one it wants; of the other: the one it has, or wants if it waits itself
	Who    string   // owner, label or process, where known
	Queued bool     // it waits itself
}

// Wait says who waits for whom. A chain is read off by looking for what is
// waited for among the waiters.
type Wait struct {
	Waiter, For Party
}

// Waiter is a lock of this service that stands in a queue, and what it waits for.
type Waiter struct {
	LockInfo
	Who     string  // owner, label or process
	For     []Party // the first few; none: that is not known, and Missing may say why
	Master  uint32  // the node that keeps the queues of the resource; 0: not known
	Missing string  // why For is not known from the queues, for people
}

// WaitsPage is a page of those that wait.
type WaitsPage struct {
	Waiters []Waiter
	Next    Ref // the After of the next page, or 0 at the end
	Looked  int // how many locks were looked at
}
