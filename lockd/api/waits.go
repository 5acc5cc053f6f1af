package api

import "github.com/dlmlock/dlmlockd/dlm"

// Party is one side of a Wait: a lock of this node or of another one.
type Party struct {
	Node   uint32 // 0: not known who
	LockID dlm.LockID
	Mode   dlm.Mode // of the waiter: the one it wants; of the other: the one it has, or wants if it waits itself
	Who    string   // owner, label or process, where known
}

// Wait says who waits for whom. A chain is read off by looking for what is
// waited for among the waiters.
type Wait struct {
	Waiter, For Party
}
