package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/filetype"
)

// The files of the state directory.
const (
	stateName        = "state.toml"
	temporaryName    = "state.toml.new"
	spareName        = "state.toml.spare"
	replacedName     = "state.toml.replaced"
	previousBootName = "state.toml.previous-boot"
	quarantinePrefix = "state.toml.corrupt-"
	pidName          = "pid"
)

// directory is the state directory, with its lock. Files in it are reached only through root, so no
// name can lead out of it.
type directory struct {
	path string
	root *os.Root
	// self is the directory as a file. It carries the flock: unlike a lock file, it can't be
	// removed and made again under the same name by somebody else.
	self *os.File
}

// fileID identifies a file.
type fileID struct{ dev, ino uint64 }

// openDirectory creates the directory if it is missing, checks its owner and mode, and locks it.
func openDirectory(path string) (*directory, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, &Error{Op: "create", Path: path, Err: err}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, &Error{Op: "open", Path: path, Err: err}
	}
	d := &directory{path: path, root: root}
	if d.self, err = root.Open("."); err != nil {
		root.Close()
		return nil, &Error{Op: "open", Path: path, Err: err}
	}
	if err := d.take(); err != nil {
		d.self.Close()
		root.Close()
		return nil, err
	}
	return d, nil
}

// inMemory reports whether the directory is in a file system without a device, where a write waits
// for nothing but memory.
func (d *directory) inMemory() bool {
	var st unix.Statfs_t
	err := unix.Fstatfs(int(d.self.Fd()), &st)
	return err == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}

// take checks and locks the directory, and writes our pid for daemons that come later.
func (d *directory) take() error {
	info, err := d.self.Stat()
	if err != nil {
		return &Error{Op: "check", Path: d.path, Err: err}
	}
	if err := checkOwner(d.path, info); err != nil {
		return err
	}
	err = unix.Flock(int(d.self.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return &Error{Op: "lock", Path: d.path, Err: ErrInUse, PID: d.readPID(),
			Advice: "another dlmlockd runs on it: stop that one, or give this one a --state-dir of its own"}
	}
	if err != nil {
		return &Error{Op: "lock", Path: d.path, Err: err}
	}
	d.writePID()
	return nil
}

// writePID writes our pid. It serves only the error message of another daemon, so it may fail, as
// it does in a full directory.
func (d *directory) writePID() {
	d.root.Remove(pidName)
	fd, err := d.root.OpenFile(pidName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return
	}
	defer fd.Close()
	fmt.Fprintf(fd, "%d\n", os.Getpid())
}

func (d *directory) readPID() int {
	fd, err := d.openRegular(pidName, os.O_RDONLY)
	if err != nil {
		return 0
	}
	defer fd.Close()
	b, err := io.ReadAll(io.LimitReader(fd, 32))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// close releases the directory. The directory and its state files stay.
func (d *directory) close() {
	d.root.Remove(pidName)
	d.self.Close()
	d.root.Close()
}

// openRegular opens a file, and refuses one that should not be there. The error wraps
// fs.ErrNotExist, or is an *Error.
func (d *directory) openRegular(name string, flag int) (*os.File, error) {
	path := filepath.Join(d.path, name)
	before, err := d.root.Lstat(name)
	if err != nil {
		return nil, &Error{Op: "open", Path: path, Err: err}
	}
	if !before.Mode().IsRegular() {
		return nil, refusal(path, "it is a "+filetype.Name(before.Mode())+", not a regular file")
	}
	// Root follows symbolic links that stay inside the directory. If a link has just taken the
	// place of the file, then a different file is opened. O_NONBLOCK: if a fifo has taken its
	// place, don't wait for a peer.
	fd, err := d.root.OpenFile(name, flag|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &Error{Op: "open", Path: path, Err: err}
	}
	info, err := fd.Stat()
	switch {
	case err != nil:
		err = &Error{Op: "check", Path: path, Err: err}
	case !os.SameFile(before, info):
		err = refusal(path, "it was replaced while it was being opened")
	default:
		err = checkOwner(path, info)
	}
	if err != nil {
		fd.Close()
		return nil, err
	}
	return fd, nil
}

// checkOwner refuses a file that other users can write to.
func checkOwner(path string, info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return refusal(path, fmt.Sprintf("it belongs to uid %d, not to uid %d", st.Uid, os.Geteuid()))
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return refusal(path, fmt.Sprintf("users other than its owner can write to it (mode %04o)", perm))
	}
	return nil
}

func refusal(path, why string) error {
	return &Error{Op: "check", Path: path, Err: fmt.Errorf("%w: %s", ErrUnsafe, why),
		Advice: "find out how that came about, then remove or correct it"}
}

// sight is the result of a look at a file.
type sight struct {
	id       fileID
	size     int64 // bytes
	modified time.Time
}

// look looks at the file that has the name now.
func (d *directory) look(name string) (sight, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(d.self.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return sight{fileID{st.Dev, st.Ino}, st.Size, time.Unix(st.Mtim.Unix())}, err
}

// create creates a file that is to become the state file, in place of one that a crash may have
// left.
func (d *directory) create(name string) (*os.File, error) {
	d.remove(name)
	return d.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// remove removes a file, if it exists.
func (d *directory) remove(name string) { d.root.Remove(name) }

// quarantine gives the state file a second name, which it keeps when the first is given to a new
// file. This needs no space and loses nothing. It returns the name.
func (d *directory) quarantine(now time.Time) (string, error) {
	stamp := quarantinePrefix + now.UTC().Format("20060102T150405Z")
	for name, n := stamp, 2; ; name, n = fmt.Sprintf("%s-%d", stamp, n), n+1 {
		err := d.root.Link(stateName, name)
		if !errors.Is(err, fs.ErrExist) {
			return name, err
		}
	}
}

// setAside keeps a state file that this run does not use under a second name, in place of an older
// one.
func (d *directory) setAside(name string) error {
	d.root.Remove(name)
	return d.root.Link(stateName, name)
}

// moved reports whether the directory's path now leads to another directory or to none. If that
// can't be found out, it returns an error, and nothing follows from it.
func (d *directory) moved() (bool, error) {
	var self, now unix.Stat_t
	if err := unix.Fstat(int(d.self.Fd()), &self); err != nil {
		return false, err
	}
	err := unix.Stat(d.path, &now)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return true, nil
	}
	return err == nil && (now.Dev != self.Dev || now.Ino != self.Ino), err
}

// follow takes over the directory to which the path leads now, and creates it if there is none. The
// old directory is released only when the new one is locked: at no time can another daemon have
// both, or this one write where another one has the lock.
func (d *directory) follow() error {
	n, err := openDirectory(d.path)
	if err != nil {
		return err
	}
	d.close()
	*d = *n
	return nil
}

// absent reports whether there is certainly no state file under its name, for a daemon that would
// start now.
func (d *directory) absent() bool {
	var st unix.Stat_t
	err := unix.Lstat(filepath.Join(d.path, stateName), &st)
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}
