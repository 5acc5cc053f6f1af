// Package dlm is the vocabulary of a distributed lock manager and the port
// through which the rest of the program drives one.
//
// It owns the words (Mode, LockID, Flags, Value, Status, Event) with the rules
// that are arithmetic on them, such as the compatibility matrix, and two
// interfaces: Engine, one process's way to the lock manager of its node, and
// Lockspace, one open lockspace of it. It refuses to know how an engine is
// made (no cgo, no simulation), who a lock is for, and any policy.
//
// Concurrency: values are plain data. Each interface says in its own comment
// which of its methods may be called from where.
//
// The words and numbers are those of the Linux kernel (include/uapi/linux/dlm.h
// and dlmconstants.h); dlm/dlmtest states the behaviour that every engine has.
package dlm
