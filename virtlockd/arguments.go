package virtlockd

import (
	"encoding/binary"
	"errors"
)

// The arguments of the calls, in XDR (RFC 4506), from libvirt's
// src/locking/lock_protocol.x, which is the same in 9.0 and 12.8. What is behind
// the arguments of a call does not count, as in virtlockd.

// The procedures of the lock program.
const (
	procRegister        uint32 = 1
	procRestrict        uint32 = 2
	procNew             uint32 = 3
	procCreateResource  uint32 = 4
	procDeleteResource  uint32 = 5
	procAcquireResource uint32 = 6
	procReleaseResource uint32 = 7
	procCreateLockspace uint32 = 8
)

// The flags of an ACQUIRE.
const (
	acquireShared     uint32 = 1
	acquireAutocreate uint32 = 2 // of virtlockd's files; the DLM makes its resources by itself
)

// errArguments says that the arguments of a call are cut short, or that a string
// is longer than the protocol allows.
var errArguments = errors.New("unable to decode the arguments")

// arguments reads the arguments of one call, in order. After the first error each
// further value is zero.
type arguments struct {
	rest []byte
	err  error
}

func (a *arguments) take(n int) []byte {
	if a.err != nil || n > len(a.rest) {
		a.err = errArguments
		return nil
	}
	taken := a.rest[:n]
	a.rest = a.rest[n:]
	return taken
}

// word reads an unsigned integer, of 32 bits in big endian like everything in XDR.
func (a *arguments) word() uint32 {
	if b := a.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// text reads a string: its length, its bytes, and zeros up to a multiple of four.
func (a *arguments) text() string {
	n := a.word()
	if a.err == nil && n > maxString {
		a.err = errArguments
	}
	if a.err != nil {
		return ""
	}
	s := string(a.take(int(n)))
	a.take(int(-n & 3))
	if a.err != nil {
		return ""
	}
	return s
}

func (a *arguments) uuid() (u uuid) {
	copy(u[:], a.take(len(u)))
	return u
}

// uuid is a domain's.
type uuid [16]byte

// registerArgs say whom the locks of a connection are for.
type registerArgs struct {
	UUID  uuid
	Name  string
	ID    uint32 // libvirt's number of the domain while it runs; 0 is refused
	PID   uint32 // of its QEMU
	Flags uint32
}

func parseRegister(body []byte) (r registerArgs, err error) {
	a := arguments{rest: body}
	r = registerArgs{UUID: a.uuid(), Name: a.text(), ID: a.word(), PID: a.word(), Flags: a.word()}
	return r, a.err
}

// resourceArgs name a lock: those of the calls 4 to 7.
type resourceArgs struct {
	Path  string // of the lockspace's directory; "" for disks by their path
	Name  string // of the resource, or the path of a disk
	Flags uint32
}

func parseResource(body []byte) (r resourceArgs, err error) {
	a := arguments{rest: body}
	r = resourceArgs{Path: a.text(), Name: a.text(), Flags: a.word()}
	return r, a.err
}

// parseFlags reads the arguments of RESTRICT.
func parseFlags(body []byte) (flags uint32, err error) {
	a := arguments{rest: body}
	flags = a.word()
	return flags, a.err
}

// parseNew reads the arguments of NEW.
func parseNew(body []byte) (path string, flags uint32, err error) {
	a := arguments{rest: body}
	path, flags = a.text(), a.word()
	return path, flags, a.err
}

// parseLockspace reads the arguments of CREATE_LOCKSPACE, which has no flags.
func parseLockspace(body []byte) (path string, err error) {
	a := arguments{rest: body}
	path = a.text()
	return path, a.err
}
