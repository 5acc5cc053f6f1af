package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/filetype"
)

// maxFile is the largest size of the file, in bytes. Whatever it contains, reading it then uses
// less than 32 MiB, most of which is garbage at once (TestMemory).
const maxFile = 64 << 10

// maxLinks is how many symbolic links may lead to a file, as in the kernel (path_resolution(7)).
const maxLinks = 40

// untrusted says why other users could decide what a file contains, and what to do.
type untrusted struct{ text string }

func (e *untrusted) Error() string { return e.text }

// read reads the file at path, which may be anything: it never waits for a peer and reads no more
// than maxFile. It reads only a regular file that nobody but root and the user of this process can
// change, because the file's contents are acted on as that user. The error wraps fs.ErrNotExist if
// nothing has that name.
func read(path string) ([]byte, error) {
	if _, err := os.Lstat(path); err != nil {
		return nil, failure(path, err) // fs.ErrNotExist: it may be missing
	}
	real, err := trusted(path)
	if err != nil {
		return nil, failure(path, err)
	}
	before, err := os.Lstat(real)
	if err == nil && isNull(before) {
		return nil, nil // --config=/dev/null: no file
	}
	if err == nil {
		err = regular(before)
	}
	if err != nil {
		return nil, failure(path, err)
	}
	// O_NONBLOCK: if a fifo has just taken its place, don't wait for a writer.
	f, err := os.OpenFile(real, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, failure(path, err)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err == nil && !os.SameFile(before, info) {
		err = errors.New("it was replaced while it was being opened")
	}
	if err != nil {
		return nil, failure(path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("it has more than %d bytes, the most that is read", maxFile)
	}
	if err != nil {
		return nil, failure(path, err)
	}
	return data, nil
}

// failure makes an *Error of what is wrong with a file. The path is said once, and that of a link or
// directory on the way to the file beside it.
func failure(path string, err error) error {
	text := err.Error()
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		text = pe.Err.Error()
		if pe.Path != path {
			text = pe.Path + ": " + text
		}
	}
	return &Error{File: path, Text: text, Err: err}
}

// isNull reports whether the file is /dev/null (null(4)).
func isNull(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == unix.Mkdev(1, 3)
}

// regular refuses what may block or never end when it is read.
func regular(info fs.FileInfo) error {
	if m := info.Mode(); !m.IsRegular() {
		return fmt.Errorf("it is a %s, not a regular file", filetype.Name(m))
	}
	return nil
}

// trusted follows a path, and checks that nobody but root and the user of this process can decide
// what is found there: by writing to the file, or by replacing it or a directory or link on the way
// to it. It returns the path without links.
//
// It follows the links itself (path_resolution(7)), because realpath(3) returns where they lead and
// not which directories and links on the way decided that.
func trusted(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	// at has been checked and has no link in it; rest is still to be walked.
	at, rest, links := "/", strings.Split(abs, "/"), 0
	if err := ours(at); err != nil {
		return "", err
	}
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = filepath.Dir(at) // at has no links, so this is the directory that the kernel goes up to
			continue
		}
		next := filepath.Join(at, name)
		to, isLink, err := step(next)
		if links > 0 && errors.Is(err, fs.ErrNotExist) { // not "missing": somebody wants the file
			return "", fmt.Errorf("it is a symbolic link, and %s does not exist", next)
		}
		if err != nil {
			return "", err
		}
		if !isLink {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", errors.New("its symbolic links form a loop")
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return at, nil
}

// step checks one file, directory or link on the way, and returns where a link leads to.
func step(path string) (to string, isLink bool, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", false, err
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return "", false, ours(path)
	}
	to, err = trustedLink(path, info)
	return to, true, err
}

// trustedLink reads a link. Of a link only the owner counts; its mode means nothing.
func trustedLink(path string, info fs.FileInfo) (string, error) {
	if err := owned(path, info); err != nil {
		return "", err
	}
	return os.Readlink(path)
}

// ours refuses a file or directory that others own or can write to. In a directory with the sticky
// bit nobody can remove what belongs to somebody else, and the owners of its entries are checked
// separately.
func ours(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if err := owned(path, info); err != nil {
		return err
	}
	sticky := info.IsDir() && info.Mode()&fs.ModeSticky != 0
	if perm := info.Mode().Perm(); perm&0o022 != 0 && !sticky && (info.IsDir() || info.Mode().IsRegular()) {
		return &untrusted{fmt.Sprintf("users other than its owner can write to %s (mode %04o): check that nobody "+
			"has tampered with it, then \"chmod go-w %s\"", path, perm, path)}
	}
	return nil
}

// owned refuses what belongs to neither root nor the user of this process: its owner can change the
// mode, and so the contents, whatever the mode says now.
func owned(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if me := os.Geteuid(); ok && st.Uid != 0 && int(st.Uid) != me {
		return &untrusted{fmt.Sprintf("%s belongs to uid %d, which can change it: check that nobody has tampered "+
			"with it, then \"chown %d %s\"", path, st.Uid, me, path)}
	}
	return nil
}

// Program returns why the program at an absolute path can't be run, or nil if it can. unsafe says
// that others could change it, so it must not be run.
func Program(path string) (unsafe bool, err error) {
	real, err := trusted(path)
	if err != nil {
		_, unsafe = errors.AsType[*untrusted](err)
		return unsafe, failure(path, err)
	}
	info, err := os.Stat(real)
	if err == nil {
		err = regular(info)
	}
	if err == nil && info.Mode().Perm()&0o111 == 0 {
		err = fmt.Errorf("it can't be executed (mode %04o): \"chmod +x %s\"", info.Mode().Perm(), path)
	}
	if err != nil {
		return false, failure(path, err)
	}
	return false, nil
}
