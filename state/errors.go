package state

import (
	"errors"
	"fmt"
	"io/fs"
)

// What can be wrong, for errors.Is. Open returns them in an *Error.
var (
	// ErrInUse: another daemon has the state directory.
	ErrInUse = errors.New("the state directory is in use")
	// ErrFormat: a newer dlmlockd wrote the file.
	ErrFormat = errors.New("the state file has an unknown format")
	// ErrEngine: the file holds locks of another engine.
	ErrEngine = errors.New("the state file holds locks of another engine")
	// ErrUnsafe: a file or directory is not what it must be: a symlink, not a
	// regular file, of another user, or writable by others.
	ErrUnsafe = errors.New("not safe to use")
	// ErrRecord: a Change that the file has no words for. It is a mistake of
	// the caller, and nothing was written.
	ErrRecord = errors.New("not a valid record")
	// ErrDamaged: somebody else changed the file while it was in use, and it could not be written again
	// yet. Tend tries that; Open sets the damage aside.
	ErrDamaged = errors.New("the state file was damaged while in use")
)

// Error is a failed Open.
type Error struct {
	Op     string // what was tried: open, lock, check, load, create
	Path   string
	Err    error  // one of the sentinels above, or what the system said
	PID    int    // ErrInUse: who has it, or 0 if that is not known
	Advice string // what to do about it, or ""
}

func (e *Error) Error() string {
	s := fmt.Sprintf("state: %s %s: %v", e.Op, e.Path, e.Err)
	if e.PID != 0 {
		s += fmt.Sprintf(" by process %d", e.PID)
	}
	if e.Advice != "" {
		s += " (" + e.Advice + ")"
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// WriteError is a failed write to the state file: nothing of what was to be
// written is there. The same write may be tried again.
type WriteError struct {
	Op   string // append, extend, replace, ...
	Path string
	Err  error // wraps the errno where the system gave one
}

// writeError names the file as it is called now, and not as it was when it was
// opened.
func writeError(op, path string, err error) *WriteError {
	if e, ok := err.(*fs.PathError); ok {
		err = e.Err
	}
	return &WriteError{op, path, err}
}

func (e *WriteError) Error() string {
	return fmt.Sprintf("state: %s %s: %v", e.Op, e.Path, e.Err)
}

func (e *WriteError) Unwrap() error { return e.Err }
