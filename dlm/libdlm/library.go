package libdlm

import "github.com/dlmlock/dlmlockd/dlm"

// library is the part of libdlm that the engine needs, and the seam for tests. Its methods may take
// more than ten seconds. Errors are syscall.Errno if the C function sets errno.
type library interface {
	// start makes the library find the control device. It is called before everything else, and
	// never concurrently, because the library keeps the device number in a variable without a lock.
	start() error
	// open is dlm_open_lockspace.
	open(name string) (device, error)
	// create is dlm_new_lockspace, with device mode 0600.
	create(name string) (device, error)
	// release is dlm_release_lockspace with force. It closes the device.
	release(name string, d device) error
}

// device is an open lockspace device. While the lockspace is stopped, all methods can sleep except
// adopt, read and interrupt.
type device interface {
	// request is dlm_ls_lock for a new lock. Its result has the cookie c.
	request(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) (dlm.LockID, error)
	// adopt is dlm_ls_lock with LKF_ORPHAN. No result follows: the call itself has returned it.
	adopt(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) (dlm.LockID, error)
	// convert is dlm_ls_lock with LKF_CONVERT.
	convert(c dlm.Cookie, id dlm.LockID, m dlm.Mode, f dlm.Flags, v *dlm.Value) error
	// unlock is dlm_ls_unlock.
	unlock(c dlm.Cookie, id dlm.LockID) error
	// cancel is dlm_ls_unlock with LKF_CANCEL. The result is that of the canceled operation.
	cancel(c dlm.Cookie, id dlm.LockID) error
	// purge is dlm_ls_purge for every orphan of the node.
	purge(node uint32) error
	// read waits for the next result. It returns os.ErrClosed after interrupt.
	read(*result) error
	// interrupt makes read return, now and from then on.
	interrupt()
	// close is dlm_close_lockspace.
	close() error
}

// result is one struct dlm_lock_result.
type result struct {
	cookie   dlm.Cookie
	blocking bool       // a blocking notification; only mode is valid
	mode     dlm.Mode   // the mode that is blocked
	status   dlm.Status // as a positive number
	id       dlm.LockID
	hasValue bool // the kernel sent the lock value block with the result
	invalid  bool // DLM_SBF_VALNOTVALID
	value    dlm.Value
}
