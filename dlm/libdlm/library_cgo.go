//go:build cgo && libdlm

package libdlm

/*
// Not through pkg-config: Debian's libdlm_lt.pc names the threaded libdlm.
#cgo LDFLAGS: -ldlm_lt
#cgo noescape glue_request
#cgo nocallback glue_request
#cgo noescape glue_convert
#cgo nocallback glue_convert
#cgo noescape glue_unlock
#cgo nocallback glue_unlock

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/stat.h>
#include <linux/dlm_device.h>
#define BUILDING_LIBDLM // linux/dlm.h has the definitions that libdlm.h repeats
#include <linux/dlm.h>
#include <libdlm.h>

// The completion argument has to hold a cookie.
_Static_assert(sizeof(void *) == sizeof(uint64_t), "libdlm needs a 64-bit machine");

// The kernel returns the address of the routine with each result, which is how
// completions and notifications are told apart. The routines are never called:
// only dlm_dispatch would call them.
static void glue_completed(void *arg) { abort(); }
static void glue_blocking(void *arg) { abort(); }

static void *glue_blocking_address(void) { return glue_blocking; }

// glue_request asks for a new lock or adopts an orphan. It returns the lockid,
// or 0 with errno set. The lksb and the value are needed only while
// dlm_ls_lock runs: it reads the value from it and stores the lockid in it.
// The kernel keeps its address but never follows it.
static uint32_t glue_request(void *ls, uint64_t cookie, const void *name,
			     unsigned int length, uint32_t mode, uint32_t flags)
{
	char value[DLM_USER_LVB_LEN] = {0};
	struct dlm_lksb lksb = {.sb_lvbptr = value};

	if (dlm_ls_lock(ls, mode, &lksb, flags, name, length, 0, glue_completed,
			(void *)cookie, glue_blocking, NULL))
		return 0;
	return lksb.sb_lkid;
}

// glue_convert converts a lock. It returns 0, or -1 with errno set.
static int glue_convert(void *ls, uint64_t cookie, uint32_t lkid, uint32_t mode,
			uint32_t flags, const void *value)
{
	char copy[DLM_USER_LVB_LEN];
	struct dlm_lksb lksb = {.sb_lkid = lkid, .sb_lvbptr = copy};

	memcpy(copy, value, sizeof(copy));
	return dlm_ls_lock(ls, mode, &lksb, flags | DLM_LKF_CONVERT, NULL, 0, 0,
			   glue_completed, (void *)cookie, glue_blocking, NULL);
}

// glue_unlock unlocks or cancels. It returns 0, or -1 with errno set.
static int glue_unlock(void *ls, uint64_t cookie, uint32_t lkid, uint32_t flags)
{
	struct dlm_lksb lksb = {0};

	return dlm_ls_unlock(ls, lkid, flags, &lksb, (void *)cookie);
}
*/
import "C"

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Supported reports whether this build can drive the kernel's DLM.
const Supported = true

// New returns the engine that drives the kernel's DLM. It does not contact the cluster yet: Open,
// Create and Node find out whether there is one.
func New(log *slog.Logger) (*Engine, error) {
	return newEngine(cLibrary{}, log), nil
}

// cLibrary implements library with libdlm_lt.
type cLibrary struct{}

// start calls dlm_kernel_version, which opens /dev/misc/dlm-control.
func (cLibrary) start() error {
	var major, minor, patch C.uint32_t
	if r, err := C.dlm_kernel_version(&major, &minor, &patch); r != 0 {
		return cError(err)
	}
	if major != C.DLM_DEVICE_VERSION_MAJOR {
		return syscall.EPROTO
	}
	return nil
}

// open calls dlm_open_lockspace.
func (cLibrary) open(name string) (device, error) {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	ls, err := C.dlm_open_lockspace(cname)
	if ls == nil {
		return nil, cError(err)
	}
	return newDevice(ls)
}

// create calls dlm_new_lockspace.
func (cLibrary) create(name string) (device, error) {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	ls, err := C.dlm_new_lockspace(cname, 0o600, C.DLM_LSFL_NEWEXCL)
	if ls == nil {
		return nil, cError(err)
	}
	return newDevice(ls)
}

// release calls dlm_release_lockspace. The library discards the kernel's answer, so the caller has
// to look whether the lockspace still exists.
func (cLibrary) release(name string, d device) error {
	c := d.(*cDevice)
	c.interrupt()
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	if r, err := C.dlm_release_lockspace(cname, c.ls, 1); r != 0 {
		return cError(err)
	}
	return nil
}

// cError returns the error of a C function that has failed, even if it did not set errno.
func cError(err error) error {
	if err == nil {
		return syscall.EIO
	}
	return err
}

// cDevice implements device with a libdlm handle.
type cDevice struct {
	ls     C.dlm_lshandle_t
	file   *os.File // a duplicate of the handle's descriptor, for the runtime's poller
	buffer [unsafe.Sizeof(C.struct_dlm_lock_result{}) + dlm.ValueSize]byte
}

// newDevice wraps a handle. It calls dlm_ls_get_fd.
func newDevice(ls C.dlm_lshandle_t) (device, error) {
	fd, err := unix.FcntlInt(uintptr(C.dlm_ls_get_fd(ls)), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		// The flag belongs to the open file, so it is set for both descriptors. Writes ignore it.
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		C.dlm_close_lockspace(ls)
		return nil, err
	}
	return &cDevice{ls: ls, file: os.NewFile(uintptr(fd), "dlm")}, nil
}

func (d *cDevice) lock(c dlm.Cookie, resource string, m dlm.Mode, flags C.uint32_t) (dlm.LockID, error) {
	id, err := C.glue_request(unsafe.Pointer(d.ls), C.uint64_t(c), unsafe.Pointer(unsafe.StringData(resource)),
		C.uint(len(resource)), C.uint32_t(m), flags)
	if id == 0 {
		return 0, cError(err)
	}
	return dlm.LockID(id), nil
}

func (d *cDevice) request(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) (dlm.LockID, error) {
	return d.lock(c, resource, m, C.uint32_t(f))
}

func (d *cDevice) adopt(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) (dlm.LockID, error) {
	return d.lock(c, resource, m, C.uint32_t(f)|C.DLM_LKF_ORPHAN)
}

func (d *cDevice) convert(c dlm.Cookie, id dlm.LockID, m dlm.Mode, f dlm.Flags, v *dlm.Value) error {
	value := *v // cgo must not see memory that is part of an object with Go pointers
	if r, err := C.glue_convert(unsafe.Pointer(d.ls), C.uint64_t(c), C.uint32_t(id), C.uint32_t(m), C.uint32_t(f),
		unsafe.Pointer(&value)); r != 0 {
		return cError(err)
	}
	return nil
}

func (d *cDevice) unlock(c dlm.Cookie, id dlm.LockID) error {
	if r, err := C.glue_unlock(unsafe.Pointer(d.ls), C.uint64_t(c), C.uint32_t(id), 0); r != 0 {
		return cError(err)
	}
	return nil
}

func (d *cDevice) cancel(c dlm.Cookie, id dlm.LockID) error {
	if r, err := C.glue_unlock(unsafe.Pointer(d.ls), C.uint64_t(c), C.uint32_t(id), C.DLM_LKF_CANCEL); r != 0 {
		return cError(err)
	}
	return nil
}

// purge calls dlm_ls_purge.
func (d *cDevice) purge(node uint32) error {
	if r, err := C.dlm_ls_purge(d.ls, C.int(node), 0); r != 0 {
		return cError(err)
	}
	return nil
}

// read replaces dlm_dispatch: device_read in fs/dlm/user.c returns one result at a time, followed
// by the lock value block if there is one.
func (d *cDevice) read(r *result) error {
	n, err := d.file.Read(d.buffer[:])
	if err != nil {
		if errors.Is(err, io.EOF) {
			return syscall.EPROTO
		}
		return err
	}
	if n < int(unsafe.Sizeof(C.struct_dlm_lock_result{})) {
		return syscall.EPROTO
	}
	in := (*C.struct_dlm_lock_result)(unsafe.Pointer(&d.buffer))
	*r = result{
		cookie:   dlm.Cookie(uintptr(in.user_astparam)),
		blocking: in.user_astaddr == C.glue_blocking_address(),
		mode:     dlm.Mode(in.bast_mode),
		status:   dlm.Status(-int32(in.lksb.sb_status)),
		id:       dlm.LockID(in.lksb.sb_lkid),
		invalid:  in.lksb.sb_flags&C.DLM_SBF_VALNOTVALID != 0,
	}
	if at := int(in.lvb_offset); at != 0 && at+dlm.ValueSize <= n {
		r.hasValue = true
		copy(r.value[:], d.buffer[at:])
	}
	return nil
}

func (d *cDevice) interrupt() { d.file.Close() }

// close calls dlm_close_lockspace.
func (d *cDevice) close() error {
	d.interrupt()
	if r, err := C.dlm_close_lockspace(d.ls); r != 0 {
		return cError(err)
	}
	return nil
}
