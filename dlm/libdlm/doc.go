// Package libdlm is the engine that drives the Linux kernel's distributed lock manager through
// libdlm_lt, the variant of libdlm that starts no threads.
//
// It owns the way from the port of package dlm to the lockspace device and back: when to call into
// the kernel, which result belongs to which operation, and the order of the two kernel operations
// that one Unlock may need. It is the only package of the service that imports "C"; peers/cpg, the
// other one, runs in a process of its own. It does not know who a lock is for or when to give up
// waiting, and has no policy; dlm/cluster looks up what can be found out without a lock.
//
// # Three layers
//
// The vocabulary is package dlm. The wrappers of the C functions are in library_cgo.go behind the
// interface in library.go. They are built with cgo and the build tag libdlm, which the Makefile
// sets if "pkg-config --exists libdlm_lt" finds the headers. Without either the tree still builds,
// and New says which package is missing. Everything else is plain Go and is tested without a
// kernel; the behaviour of real kernels is tested on real nodes (lab/).
//
// # Calls into the kernel
//
// A write to the lockspace device sleeps, uninterruptibly, while the lockspace is stopped
// (dlm_lock_recovery in fs/dlm). So no method of the port calls into the kernel: it adds a
// kernelCall to a queue with one goroutine. Each lockspace has two. Calls that can sleep go through
// the first. A second thread for those would only sleep beside the first, because the whole
// lockspace has one semaphore. While the lockspace is known to be stopped the first queue makes no
// calls at all: a process with a sleeping thread could not end. Adoption never takes that
// semaphore, so it has the second queue, and works while the lockspace is stopped. Lockspaces never
// wait for each other.
//
// # Results
//
// The kernel reports each completion and blocking notification as one struct dlm_lock_result
// (linux/dlm_device.h), which is read from the descriptor of dlm_ls_get_fd. This package reads the
// results on a goroutine that is parked in the runtime's poller, and does not use dlm_dispatch,
// because dlm_dispatch
//   - drops the mode of a blocking notification, which dlm.Event has to carry;
//   - copies the result into the lksb of the caller, in the case of a
//     notification an old one, so it can overwrite the status and lockid of an
//     operation under way, and the lksb has to live until the very last result;
//   - does not tell whether a lock value block came with the result.
//
// So no C memory outlives a call, and C never calls Go: the lksb that libdlm needs is a variable of
// the wrapper, its address passes through the kernel as an opaque number, and the completion
// argument is the cookie itself.
//
// # Concurrency
//
// Each lockspace has one mutex. The sink is called with it held, so events are in order and none is
// delivered after Close. It is never held during a call into the kernel.
package libdlm
