package disknames

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// mount is a line of /proc/PID/mountinfo (proc(5)): a directory of a file system at a
// mount point.
type mount struct {
	id     uint64 // as in statx(2), stx_mnt_id; reused after an unmount
	device string // MAJOR:MINOR of the file system
	root   string // the directory of the file system that is mounted: not "/" for a bind mount
	point  string // where, seen from the root directory of the process
}

// table is the mounts of one mount namespace, as seen from one root directory. It is kept with the
// file that it was read from, which says by poll(2) whether mounts have changed since: to read it
// costs more than all the rest.
type table struct {
	file   *os.File
	fd     int // of file, because file.Fd makes a system call each time
	mounts []mount
}

// tables are those that were asked for last.
var tables struct {
	sync.Mutex
	of map[seenFrom]*table
}

// seenFrom is what the paths of a table depend on: mountinfo leaves out what is not below the root
// directory of the process (show_mountinfo in fs/proc_namespace.c). None of it is reused for something
// else, because the open file keeps the namespace and the root directory alive.
type seenFrom struct {
	namespace string // what /proc/PID/ns/mnt says
	// The root directory: see statx(2).
	mount, inode             uint64
	deviceMajor, deviceMinor uint32
}

// seenFrom returns what the mounts of the process depend on.
func (v *view) seenFrom() (seenFrom, error) {
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", v.pid))
	if err != nil {
		return seenFrom{}, err
	}
	var root unix.Statx_t
	err = unix.Statx(v.root, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_MNT_ID, &root)
	return seenFrom{space, root.Mnt_id, root.Ino, root.Dev_major, root.Dev_minor}, err
}

// mostTables bounds how many tables are kept: a host has one libvirtd. Each keeps a descriptor and a
// mount namespace, so beyond that all are closed, and those still in use are opened again.
const mostTables = 4

// mounts returns the mounts that the process sees.
func (v *view) mounts() ([]mount, error) {
	from, err := v.seenFrom()
	if err != nil {
		return nil, err
	}
	tables.Lock()
	defer tables.Unlock()
	t := tables.of[from]
	if t != nil && !t.changed() {
		return t.mounts, nil
	}
	if t == nil {
		f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", v.pid))
		if err != nil {
			return nil, err
		}
		if len(tables.of) >= mostTables || tables.of == nil {
			forgetTables()
		}
		t = &table{file: f, fd: int(f.Fd())}
		tables.of[from] = t
	}
	if err := t.fill(); err != nil {
		_ = t.file.Close()
		delete(tables.of, from)
		return nil, err
	}
	return t.mounts, nil
}

// forgetTables closes the files that are kept.
func forgetTables() {
	for _, t := range tables.of {
		_ = t.file.Close()
	}
	tables.of = map[seenFrom]*table{}
}

// changed reports whether anything was mounted, unmounted or moved since it was last
// asked, or since the file was opened (mounts_poll in fs/proc_namespace.c). The kernel reports a
// change once, so a caller that gets true has to fill the table. An error counts as a change.
func (t *table) changed() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLPRI}}, 0)
	return n != 0 && !errors.Is(err, unix.EINTR) // a signal came, and nothing else
}

// mostReads bounds how often a table that changes meanwhile is read.
const mostReads = 100

// fill reads the table. If the mounts change between two reads of the file, lines may
// be missing or torn, so everything is read again.
func (t *table) fill() error {
	for range mostReads {
		if _, err := t.file.Seek(0, 0); err != nil {
			return err
		}
		var text bytes.Buffer
		if _, err := text.ReadFrom(t.file); err != nil {
			return err
		}
		if t.changed() {
			continue
		}
		t.mounts = nil
		for line := range strings.Lines(text.String()) {
			if m, ok := parseMount(line); ok {
				t.mounts = append(t.mounts, m)
			}
		}
		return nil
	}
	return unix.EAGAIN
}

func parseMount(line string) (m mount, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 {
		return m, false
	}
	id, err := strconv.ParseUint(fields[0], 10, 64)
	return mount{id, fields[2], unescape(fields[3]), unescape(fields[4])}, err == nil
}

// unescape replaces the escapes of blanks, backslashes and the like: exactly three
// octal digits (mangle_path in fs/seq_file.c).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		if len(s) >= 4 && s[0] == '\\' {
			if n, err := strconv.ParseUint(s[1:4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				s = s[4:]
				continue
			}
		}
		b.WriteByte(s[0])
		s = s[1:]
	}
	return b.String()
}

func findMount(all []mount, id uint64) *mount {
	for i := range all {
		if all[i].id == id {
			return &all[i]
		}
	}
	return nil
}

// alone reports whether a mount is the only one of its file system; false if that
// can't be told.
func (v *view) alone(id uint64) bool {
	all, err := v.mounts()
	own := findMount(all, id)
	if err != nil || own == nil {
		return false
	}
	for i := range all {
		if &all[i] != own && all[i].device == own.device {
			return false
		}
	}
	return true
}

// below returns what follows a directory in a path, "" or "/...".
func below(path, dir string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, strings.TrimSuffix(dir, "/"))
	return rest, ok && (rest == "" || rest[0] == '/')
}

func join(dir, rest string) string {
	if dir == "/" && rest != "" {
		return rest
	}
	return dir + rest
}

// throughOtherMounts returns the paths of a file through the other mounts of its file
// system: a guest whose disk is given by one of them has the same disk. The device in mountinfo
// identifies the file system; the device of a file may be that of a subvolume.
func (v *view) throughOtherMounts(path string) (paths []string, err error) {
	st, err := v.stat(path)
	switch {
	case absent(err):
		return nil, nil
	case err != nil:
		return nil, err
	case st.Mask&unix.STATX_MNT_ID == 0:
		return nil, nil // before Linux 5.8
	}
	all, err := v.mounts()
	if err != nil {
		return nil, err
	}
	own := findMount(all, st.Mnt_id)
	if own == nil {
		return nil, nil
	}
	rest, ok := below(path, own.point)
	if !ok {
		return nil, nil
	}
	where := join(own.root, rest)
	for i := range all {
		m := &all[i]
		rest, ok := below(where, m.root)
		if m == own || m.device != own.device || !ok {
			continue
		}
		other := join(m.point, rest)
		// Only if nothing else is mounted over it.
		if o, err := v.stat(other); err == nil && sameFile(&st, &o) && o.Mnt_id == m.id {
			paths = append(paths, other)
		}
	}
	return paths, nil
}

func sameFile(a, b *unix.Statx_t) bool {
	return a.Ino == b.Ino && a.Dev_major == b.Dev_major && a.Dev_minor == b.Dev_minor
}
