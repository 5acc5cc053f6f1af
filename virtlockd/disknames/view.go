package disknames

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// view is the file system as another process sees it.
type view struct {
	pid  uint32
	root int // a descriptor of its root directory
}

// open makes the view of a process.
func open(pid uint32) (*view, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("the file system of process %d: %w", pid, err)
	}
	return &view{pid, root}, nil
}

func (v *view) close() { _ = unix.Close(v.root) }

// openPath opens a path of the process, and nothing of what is there.
func (v *view) openPath(path string, flags, resolve uint64) (fd int, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | resolve}
	for {
		fd, err = unix.Openat2(v.root, path, &how)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

const statWanted = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID

// stat examines what a path leads to.
func (v *view) stat(path string) (st unix.Statx_t, err error) {
	fd, err := v.openPath(path, 0, 0)
	if err != nil {
		return st, err
	}
	defer unix.Close(fd)
	return st, unix.Statx(fd, "", unix.AT_EMPTY_PATH, statWanted, &st)
}

// readlink returns where a link leads to; isLink is false for anything else.
func (v *view) readlink(path string) (target string, isLink bool, err error) {
	fd, err := v.openPath(path, unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", false, err
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, &st); err != nil {
		return "", false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", false, nil
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	return string(buf[:max(n, 0)]), true, err
}

// mostLinks is how many links a path may lead through, as for the kernel
// (path_resolution(7)).
const mostLinks = 40

// resolve returns a path without links. It must exist.
func (v *view) resolve(path string) (string, error) {
	at, rest := "", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		component := rest[0]
		rest = rest[1:]
		switch component {
		case "", ".":
			continue
		case "..":
			at = at[:max(strings.LastIndexByte(at, '/'), 0)]
			continue
		}
		target, isLink, err := v.readlink(at + "/" + component)
		switch {
		case err != nil:
			return "", err
		case !isLink:
			at += "/" + component
			continue
		}
		if links++; links > mostLinks {
			return "", unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			at = ""
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	if at == "" {
		return "/", nil
	}
	return at, nil
}

// clean is a path without empty components, "." and "X/..", where X may be a link:
// then ".." is the directory above what it leads to.
func (v *view) clean(path string) (string, error) {
	out := ""
	for component := range strings.SplitSeq(path, "/") {
		switch component {
		case "", ".":
			continue
		case "..":
			var err error
			if out, err = v.above(out); err != nil {
				return "", err
			}
		default:
			out += "/" + component
		}
		if len(out) >= unix.PathMax {
			return "", unix.ENAMETOOLONG
		}
	}
	if out == "" {
		return "/", nil
	}
	return out, nil
}

// above is the directory above a path. What is not there counts by its spelling.
func (v *view) above(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	_, isLink, err := v.readlink(path)
	if err != nil && !absent(err) {
		return "", err
	}
	if isLink {
		real, err := v.resolve(path)
		switch {
		case err == nil:
			path = real
		case !absent(err):
			return "", err
		}
	}
	return path[:strings.LastIndexByte(path, '/')], nil
}

// pathsOf returns the paths of a file: the one without what says nothing, the one
// where links in the last component are followed, and, unless its directory is not
// there, the one without any link.
func (v *view) pathsOf(path string) ([]string, error) {
	first, err := v.clean(path)
	if err != nil {
		return nil, err
	}
	second, err := v.follow(first)
	if err != nil {
		return nil, err
	}
	paths := []string{first, second}
	cut := strings.LastIndexByte(second, '/')
	dir, err := v.resolve(second[:cut] + "/")
	switch {
	case absent(err):
		return paths, nil
	case err != nil:
		return nil, err
	}
	return append(paths, strings.TrimSuffix(dir, "/")+"/"+second[cut+1:]), nil
}

// follow follows the links of the last component.
func (v *view) follow(path string) (string, error) {
	for links := 0; ; {
		target, isLink, err := v.readlink(path)
		switch {
		case absent(err), err == nil && !isLink:
			return path, nil
		case err != nil:
			return "", err
		}
		if links++; links > mostLinks {
			return "", unix.ELOOP
		}
		if !strings.HasPrefix(target, "/") {
			target = path[:strings.LastIndexByte(path, '/')+1] + target
		}
		if path, err = v.clean(target); err != nil {
			return "", err
		}
	}
}
