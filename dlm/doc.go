// Package dlm is the vocabulary of a distributed lock manager and the port through which the rest
// of the program uses one.
//
// It owns the terms (Mode, LockID, Flags, Value, Status, Event) and the rules that are arithmetic
// on them, such as the compatibility matrix. Its two interfaces are Engine, one process's access to
// the lock manager of its node, and Lockspace, one open lockspace. It does not know how an engine
// works (neither cgo nor a simulation) or who a lock is for, and has no policy.
//
// Concurrency: values are plain data. The comment of each interface says which of its methods may
// be called from where.
//
// The names and numbers are those of the Linux kernel (include/uapi/linux/dlm.h and
// dlmconstants.h). dlm/dlmtest states the behaviour that every engine must have.
package dlm
