package dlm

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// The kinds of errors, for errors.Is. Everything else about an error is in the fields of *Error; no
// code looks at an error's text.
var (
	ErrMode               = errors.New("invalid mode")
	ErrName               = errors.New("invalid name")
	ErrNoLockspace        = errors.New("no such lockspace")
	ErrLockspaceExists    = errors.New("the lockspace exists already")
	ErrClosed             = errors.New("closed")
	ErrClusterUnavailable = errors.New("the cluster is not available")
	ErrUnsupported        = errors.New("not supported by this build")
)

// Error is a failed operation of an engine.
type Error struct {
	Op        string        // what failed: "open", "create", "remove", ...
	Lockspace string        // "" if the error concerns none
	Resource  string        // "" if the error concerns none
	Errno     syscall.Errno // 0 if the system gave none
	Err       error         // one of the errors above, or nil
	Advice    string        // what to do about it, one sentence, or ""
	// Unsettled says, about a create that failed, that this node may be in the lockspace, or may
	// still join it.
	Unsettled bool
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("dlm: ")
	b.WriteString(e.Op)
	if e.Lockspace != "" {
		fmt.Fprintf(&b, " lockspace %q", e.Lockspace)
	}
	if e.Resource != "" {
		fmt.Fprintf(&b, " resource %q", e.Resource)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Errno != 0 {
		b.WriteString(": " + e.Errno.Error())
	}
	if e.Advice != "" {
		b.WriteString(" (" + e.Advice + ")")
	}
	return b.String()
}

// Unwrap lets errors.Is see both the sentinel and the errno.
func (e *Error) Unwrap() []error {
	var errs []error
	if e.Err != nil {
		errs = append(errs, e.Err)
	}
	if e.Errno != 0 {
		errs = append(errs, e.Errno)
	}
	return errs
}

// CheckResource reports whether name can name a resource: 1 to 64 bytes of
// anything. The error is an *Error that wraps ErrName.
func CheckResource(name string) error {
	switch {
	case name == "":
		return &Error{Op: "check", Err: ErrName, Advice: "a resource name has at least one byte"}
	case len(name) > MaxResourceName:
		return &Error{Op: "check", Err: ErrName,
			Advice: fmt.Sprintf("a resource name has at most %d bytes, this one has %d; hash longer names, for "+
				"example with SHA-256", MaxResourceName, len(name))}
	}
	return nil
}

// CheckLockspace reports whether name can name a lockspace: 1 to 64 bytes of
// letters, digits, '_', '-', '.' and '+', not beginning with '.', because the
// name becomes the file /dev/misc/dlm_NAME. The kernel itself only forbids '/'.
// The error is an *Error that wraps ErrName.
func CheckLockspace(name string) error {
	bad := func(advice string) error { return &Error{Op: "check", Err: ErrName, Advice: advice} }
	switch {
	case name == "":
		return bad("a lockspace name has at least one character")
	case name[0] == '.':
		return bad("a lockspace name does not begin with a dot")
	}
	for _, r := range name {
		ok := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.+", r)
		if !ok {
			return bad("a lockspace name has only letters, digits and _ - . +")
		}
	}
	if len(name) > MaxLockspaceName { // of one byte each, as they were looked at
		return bad(fmt.Sprintf("a lockspace name has at most %d characters, this one has %d", MaxLockspaceName,
			len(name)))
	}
	return nil
}
