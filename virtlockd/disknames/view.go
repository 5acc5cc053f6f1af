package disknames

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// view is the file system as another process sees it. The descriptor keeps its root directory and
// mounts even after the process has ended; pid is used only for mountinfo.
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

// noOpenat2 is set where the kernel has no openat2(2), or systemd does not let the
// service use it: RestrictSUIDSGID=, which the unit has, makes it fail with ENOSYS,
// because a filter can't see its arguments (seccomp_restrict_suid_sgid in systemd).
var noOpenat2 atomic.Bool

// openPath opens a path of the process, and nothing of what is there.
func (v *view) openPath(path string, flags, resolve uint64) (fd int, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: unix.RESOLVE_IN_ROOT | resolve}
	for !noOpenat2.Load() {
		fd, err = unix.Openat2(v.root, path, &how)
		switch {
		case errors.Is(err, unix.ENOSYS):
			noOpenat2.Store(true)
		case errors.Is(err, unix.EAGAIN) && resolve&resolveCached == 0:
			// Something was renamed or mounted, anywhere, while the kernel passed a "..", so it can't
			// tell whether that has led out of the root (openat2(2)).
			return v.walk(path, flags&unix.O_NOFOLLOW == 0)
		case !errors.Is(err, unix.EINTR):
			return fd, err
		}
	}
	if resolve&resolveCached != 0 {
		return -1, unix.EAGAIN // only openat2 can do that
	}
	return v.walk(path, flags&unix.O_NOFOLLOW == 0)
}

// walk is openPath without openat2: it follows links itself, because the kernel would
// take an absolute target for a path of this process. For the same reason the kernel does not get
// "..", which could lead out of the root of the other process: walk goes through the names again
// from that root.
//
// The walk is not one step for the kernel. If a directory is moved meanwhile, the walk may lead
// elsewhere, as with any path that is looked up twice.
func (v *view) walk(path string, follow bool) (fd int, err error) {
	if len(path) >= unix.PathMax {
		return -1, unix.ENAMETOOLONG
	}
	var names []string // of the directories that lead to fd; none of them is a link
	fd, err = v.inRoot(nil)
	for rest, links := components(path), 0; err == nil && len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		here := name
		if name == ".." {
			here = "." // which fails if that is no directory
		}
		var next int
		if next, err = openNext(fd, here, len(rest) > 0); err != nil {
			break
		}
		if here == "." {
			fd, err = replace(fd)(next, nil)
			if name == ".." {
				names = names[:max(len(names)-1, 0)]
				fd, err = replace(fd)(v.inRoot(names))
			}
			continue
		}
		target, isLink, e := linkAt(next)
		if e != nil || !isLink || len(rest) == 0 && !follow {
			names = append(names, name)
			fd, err = replace(fd)(next, e)
			continue
		}
		_ = unix.Close(next)
		if links++; links > mostLinks {
			err = unix.ELOOP
			break
		}
		if strings.HasPrefix(target, "/") {
			names = nil
			fd, err = replace(fd)(v.inRoot(nil))
		}
		rest = append(components(target), rest...)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// openNext opens what a name in a directory stands for, which may be a link. If more of the path
// follows, a directory at which something is mounted at its first use (autofs(5)) is used by that: the
// kernel then mounts it, as it does in the middle of a path, but not for O_PATH alone (open(2)).
func openNext(dir int, name string, more bool) (int, error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if more {
		if fd, err := unix.Openat(dir, name, flags|unix.O_DIRECTORY, 0); !errors.Is(err, unix.ENOTDIR) {
			return fd, err
		}
	}
	return unix.Openat(dir, name, flags, 0)
}

// inRoot opens a directory by names of which none is a link.
func (v *view) inRoot(names []string) (int, error) {
	return unix.Openat(v.root, "./"+strings.Join(names, "/"),
		unix.O_PATH|unix.O_NOFOLLOW|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// replace closes a descriptor when the next one is open, or could not be opened.
func replace(old int) func(next int, err error) (int, error) {
	return func(next int, err error) (int, error) {
		_ = unix.Close(old)
		return next, err
	}
}

// components are those of a path that say something. A "/" at the end says that it is
// a directory.
func components(path string) []string {
	if strings.HasSuffix(path, "/") {
		path += "."
	}
	return slices.DeleteFunc(strings.Split(path, "/"), func(c string) bool { return c == "" })
}

// linkAt returns where the link leads to that is open.
func linkAt(fd int) (target string, isLink bool, err error) {
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
	return linkAt(fd)
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

// clean returns an absolute path without empty components, "." and "X/..". If X is a link, ".." is
// the directory above the target of the link.
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
		if len(out) >= unix.PathMax { // links in ".." may make it longer than the path was
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
