package libdlm

import "github.com/dlmlock/dlmlockd/dlm"

// library is what the engine needs of libdlm, and the seam for tests. Its
// methods may take ten seconds and more. Errors are syscall.Errno where the C
// function sets errno.
type library interface {
	// start makes the library find the control device. It is called before
	// everything else, and not concurrently, because the library keeps what it
	// found in a variable without a lock.
	start() error
	// open is dlm_open_lockspace.
	open(name string) (device, error)
	// create is dlm_new_lockspace, with device mode 0600.
	create(name string) (device, error)
	// release is dlm_release_lockspace with force. The device is closed by it.
	release(name string, d device) error
}

// device is one open lockspace device. All methods but read and interrupt can
// sleep for as long as the lockspace is stopped; adopt does not.
type device interface {
	// request is dlm_ls_lock for a new lock. Its result carries c.
	request(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) (dlm.LockID, error)
	// adopt is dlm_ls_lock with LKF_ORPHAN. No result follows.
	adopt(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) (dlm.LockID, error)
	// convert is dlm_ls_lock with LKF_CONVERT.
	convert(c dlm.Cookie, id dlm.LockID, m dlm.Mode, f dlm.Flags, v *dlm.Value) error
	// unlock is dlm_ls_unlock.
	unlock(c dlm.Cookie, id dlm.LockID) error
	// cancel is dlm_ls_unlock with LKF_CANCEL. The result is that of the
	// operation which it cancels.
	cancel(c dlm.Cookie, id dlm.LockID) error
	// purge is dlm_ls_purge for every orphan of the node.
	purge(node uint32) error
	// read waits for the next result. It returns os.ErrClosed after interrupt.
	read(*result) error
	// interrupt ends read for good.
	interrupt()
	// close is dlm_close_lockspace.
	close() error
}

// result is one struct dlm_lock_result.
type result struct {
	cookie   dlm.Cookie
	blocking bool       // a blocking notification; only mode counts
	mode     dlm.Mode   // what somebody waits for
	status   dlm.Status // as a positive number
	id       dlm.LockID
	hasValue bool // the kernel sent the lock value block along
	invalid  bool // DLM_SBF_VALNOTVALID
	value    dlm.Value
}
