package state

import (
	"errors"
	"fmt"
	"io/fs"
)

// The kinds of errors, for errors.Is. Open returns them in an *Error.
var (
	// ErrInUse: another daemon has locked the state directory.
	ErrInUse = errors.New("the state directory is in use")
	// ErrFormat: a newer dlmlockd wrote the file.
	ErrFormat = errors.New("the state file has an unknown format")
	// ErrEngine: the file holds locks of another engine.
	ErrEngine = errors.New("the state file holds locks of another engine")
	// ErrUnsafe: a file or directory is not what it must be: it is a symbolic link, not a regular
	// file, of another user, or writable by others.
	ErrUnsafe = errors.New("not safe to use")
	// ErrRecord: a Change can't be expressed in the file. It is a mistake of the caller, and
	// nothing was written.
	ErrRecord = errors.New("not a valid record")
	// ErrDamaged: somebody else has changed the file while it was in use, and it could not be
	// written again yet. Tend tries that again; Open sets the damage aside.
	ErrDamaged = errors.New("the state file was damaged while in use")
)

// Error is the error of a failed Open.
type Error struct {
	Op     string // what failed: open, lock, check, load, create
	Path   string
	Err    error  // one of the errors above, or that of the system
	PID    int    // with ErrInUse: the process that has the directory, or 0 if that is not known
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

// WriteError is a failed write to the state file, of which nothing is in the file. The same write
// may be tried again.
type WriteError struct {
	Op   string // append, extend, replace, ...
	Path string
	Err  error // wraps the errno if the system gave one
}

// writeError names the file by its current path, and not by the one under which it was opened.
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
