// Package libdlm is the engine that drives the Linux kernel's distributed lock
// manager through libdlm_lt, the part of libdlm that starts no threads.
//
// It owns the way from the port of package dlm to the lockspace device and
// back: who may call into the kernel when, which result belongs to which
// operation, and the order of the two kernel operations that one Unlock may
// need. It is the only package that imports "C". It refuses to know who a lock
// is for, when to give up waiting, and every policy; what can be looked up
// without asking for a lock is the business of dlm/cluster.
//
// # Three layers
//
// The vocabulary is package dlm. The wrappers of the C functions are in
// library_cgo.go behind the interface in library.go, and are built with cgo and
// the build tag libdlm, which the Makefile sets where "pkg-config --exists
// libdlm_lt" says that the headers are there. Without either the whole tree
// still builds, and New says which package is missing. All the rest is plain
// Go and is tested without a kernel; what the kernel does with it is tested on
// real nodes (lab/).
//
// # Calls into the kernel
//
// A write to the lockspace device sleeps, uninterruptibly, while the lockspace
// is stopped (dlm_lock_recovery in fs/dlm). So no method of the port calls into
// the kernel: it hands the request to a lane, which is a queue with one
// goroutine. Each lockspace has two. What can sleep goes through the first. A
// second thread for those would only sleep beside the first, because it is one
// semaphore for the whole lockspace that they wait for. While the lockspace is
// known to be stopped the first lane makes no calls at all: a process with a
// sleeping thread could not end. Adoption never takes
// that semaphore, so it has the second lane, and works while the lockspace is
// stopped. Lockspaces never wait for each other.
//
// # Results
//
// The kernel reports each completion and blocking notification as one struct
// dlm_lock_result (linux/dlm_device.h) that is read from the descriptor of
// dlm_ls_get_fd. This package reads them itself, on a goroutine that is parked
// in the runtime's poller, and not with dlm_dispatch, because dlm_dispatch
//   - drops the mode of a blocking notification, which dlm.Event has to carry;
//   - copies the result into the lksb of the caller, for a notification an old
//     one, so that status and lockid of an operation under way can be
//     overwritten, and the lksb has to live until the very last result;
//   - does not tell whether a lock value block came with the result.
//
// Because of that there is no C memory that outlives a call, and no call from C
// to Go: the lksb that libdlm wants is a variable of the wrapper, its address
// goes through the kernel as an opaque number, and the completion argument is
// the cookie itself.
//
// # Concurrency
//
// Each lockspace has one mutex. The sink is called with it held, so events are
// in order and none is delivered after Close. It is never held during a call
// into the kernel.
package libdlm
