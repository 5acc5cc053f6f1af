package dlm

import (
	"fmt"
	"strings"
)

// Limits of the kernel's DLM (include/uapi/linux/dlmconstants.h), in bytes.
const (
	MaxResourceName  = 64 // DLM_RESNAME_MAXLEN; any bytes
	MaxLockspaceName = 64 // DLM_LOCKSPACE_LEN
	ValueSize        = 32 // DLM_USER_LVB_LEN
)

// LockID is the kernel's lkid. It is unique per node and lockspace while the lock exists. A new
// lock gets the lowest free number, so a lockid is reused soon after its lock is gone. Zero is not
// a lockid.
type LockID uint32

// Cookie is the name that the user of a Lockspace gives to one of its locks, from the request to
// the end of the lock. It must not be in use in that Lockspace. Zero is not a cookie.
type Cookie uint64

// Value is a lock value block: 32 bytes that belong to the resource.
type Value [ValueSize]byte

// Flags modify a request. The values are the kernel's (DLM_LKF_*).
type Flags uint32

// The flags that the port accepts. CONVERT, CANCEL and ORPHAN are methods of Lockspace; TIMEOUT has
// no effect in the kernel, so it is left out.
const (
	// NoQueue refuses a request with StatusAgain if it can't be granted at once.
	NoQueue Flags = 0x1
	// ValueBlock makes the operation read or write the lock value block.
	ValueBlock Flags = 0x8
	// QueueConvert makes a conversion wait behind earlier conversions even if it could be granted
	// at once.
	QueueConvert Flags = 0x10
	// Persistent makes the lock an orphan, rather than ending it, when its process ends. Every
	// conversion and adoption sets it anew: repeat it, or the lock silently stops being persistent.
	// Never queue a new request with it (fs/dlm leaves a ghost lock when the process dies).
	Persistent Flags = 0x80
	// Expedite grants a new NL request at once, ahead of every waiting request.
	Expedite Flags = 0x400
	// NoQueueBlocking sends the blocking notifications of a NoQueue request even if it is refused.
	NoQueueBlocking Flags = 0x800
)

const allFlags = NoQueue | ValueBlock | QueueConvert | Persistent | Expedite | NoQueueBlocking

// LockAllowed reports whether a new lock, or an adoption, may be requested in mode m with the flags
// f: only flags of this package, never QueueConvert, and Expedite only for NL without NoQueue
// (set_lock_args in fs/dlm/lock.c). Otherwise the request ends with StatusInvalid.
func LockAllowed(m Mode, f Flags) bool {
	switch {
	case !m.Valid(), f&^allFlags != 0, f&QueueConvert != 0:
		return false
	case f&Expedite != 0:
		return m == NL && f&NoQueue == 0
	}
	return true
}

// ConvertAllowed reports whether a lock granted in the mode from may be converted to the mode to
// with the flags f: never with Expedite, and with QueueConvert only if the conversion might have to
// wait (__quecvt_compat_matrix in fs/dlm/lock.c). Otherwise the conversion ends with StatusInvalid,
// without asking the kernel: newer kernels print a warning with a stack trace (validate_lock_args).
func ConvertAllowed(from, to Mode, f Flags) bool {
	if !to.Valid() || f&^allFlags != 0 || f&Expedite != 0 {
		return false
	}
	return f&QueueConvert == 0 || to > from || from == PR && to == CW
}

var flagNames = []struct {
	f Flags
	s string
}{
	{NoQueue, "NOQUEUE"}, {ValueBlock, "VALBLK"}, {QueueConvert, "QUECVT"},
	{Persistent, "PERSISTENT"}, {Expedite, "EXPEDITE"}, {NoQueueBlocking, "NOQUEUEBAST"},
}

// String returns the kernel's names of the flags that are set, joined by "|".
func (f Flags) String() string {
	var s []string
	for _, n := range flagNames {
		if f&n.f != 0 {
			s = append(s, n.s)
			f &^= n.f
		}
	}
	if f != 0 || len(s) == 0 {
		s = append(s, fmt.Sprintf("%#x", uint32(f)))
	}
	return strings.Join(s, "|")
}
