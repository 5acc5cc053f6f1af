// Package disknames finds the names under which a disk is locked, from the path by
// which a process of this host knows it: those that dlmlock.so, the lock driver of
// this project for libvirt, gives a disk (libvirt/naming.c, docs/libvirt.md, "The names
// of a disk"), so that a host with either driver protects the disk from the other.
// A test holds both against each other.
//
//	found, err := disknames.Of(libvirtd, "/images/a.img")
//
// It owns the looking at paths, mounts and block devices, in the mount namespace and
// below the root of the other process: the service's own may show less. It refuses to
// know who locks what, and never opens a disk, only paths (O_PATH).
//
// Concurrency: Of may be called from any goroutine. It blocks for as long as the
// storage takes to answer, which may be for ever.
package disknames

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// most is how many names a disk has at most: as many as the driver in C takes
// (DLMLOCK_NAMES_MAX). Each name is a lock of its own, and all or none of them are taken.
const most = 8

// Found is what was found out about a disk.
type Found struct {
	Names []string // resources of the DLM, each once
	// Links is how many hard links the file has, if it has more than one; other
	// hosts can't see them.
	Links uint32
	// Unseen is why the path could not be examined, so that the names are those of
	// its spelling alone; nil if it was.
	Unseen error
}

// add adds the name that is the SHA-256 of a text.
func (f *Found) add(text string) {
	if name := Hash(text); !slices.Contains(f.Names, name) {
		f.Names = append(f.Names, name)
	}
}

// Hash returns the name for a text: its SHA-256 in hex, which has the 64 bytes that the name of a
// resource may have (DLM_RESNAME_MAXLEN).
func Hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Spelled returns the names that follow from the spelling of a path alone: that of
// the path as it is, and of the path without "//" and "/./". What "X/.." leads to
// depends on whether X is a link, so that stays.
func Spelled(path string) []string {
	var f Found
	f.add(path)
	if strings.HasPrefix(path, "/") {
		f.add(plain(path))
	}
	return f.Names
}

// plain is an absolute path without empty components and ".".
func plain(path string) string {
	var b strings.Builder
	for component := range strings.SplitSeq(path, "/") {
		if component != "" && component != "." {
			b.WriteString("/" + component)
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// Of names the disk at a path, as the process with this pid sees it. What is not
// there, or must not be looked at (EACCES: on NFS root may be nobody), has the names
// of its spelling, and Unseen says why. After any other error the disk can't be
// identified.
//
// The error means that the disk must not be used: it may have names that are not known, under
// which somebody else could have locked it.
func Of(pid uint32, path string) (Found, error) {
	if !strings.HasPrefix(path, "/") {
		return Found{Names: Spelled(path), Unseen: unix.ENOENT}, nil
	}
	v, err := open(pid)
	if err != nil {
		return Found{Names: Spelled(path), Unseen: err}, nil
	}
	defer v.close()
	return v.name(path)
}

// Plain is Of for what most disks are, which have one name. It never waits for
// storage; ok is false where Of has to look.
func Plain(pid uint32, path string) (name string, ok bool) {
	if !strings.HasPrefix(path, "/") {
		return "", false
	}
	v, err := open(pid)
	if err != nil {
		return "", false
	}
	defer v.close()
	return Hash(path), v.isPlain(path)
}

// resolveCached is RESOLVE_CACHED of include/uapi/linux/openat2.h, since Linux 5.12: the kernel
// looks only at its cache of names, and returns EAGAIN where it would have to read or to ask a
// server.
const resolveCached = 0x20

// isPlain reports whether that is what most disks are: a file without links, whose
// path is spelled as it is, on a file system that is mounted once. It never waits for
// storage: the kernel says EAGAIN where it would have to ask.
func (v *view) isPlain(path string) bool {
	if strings.Contains(path, "/..") || plain(path) != path {
		return false
	}
	fd, err := v.openPath(path, 0, unix.RESOLVE_NO_SYMLINKS|resolveCached)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	// DONT_SYNC: what is cached is enough, even of a file on a server (statx(2)).
	err = unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC,
		unix.STATX_TYPE|unix.STATX_NLINK|unix.STATX_MNT_ID, &st)
	return err == nil && st.Mask&unix.STATX_MNT_ID != 0 && isRegular(&st) && st.Nlink == 1 && v.alone(st.Mnt_id)
}

// name names a disk of any kind. The names of the spelling come first and are always there: only
// these are sure to be the same on another host, for example while a network file system is not
// mounted here.
func (v *view) name(path string) (Found, error) {
	f := Found{Names: Spelled(path)}
	st, err := v.stat(path)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK:
		return f, f.addDevice(st.Rdev_major, st.Rdev_minor)
	case err != nil && !absent(err):
		f.Unseen = err
	default:
		f.Unseen = err
		if e := v.addFile(&f, path, st, err == nil); e != nil {
			f.Unseen, err = e, e
		}
	}
	if err == nil || absent(err) || closed(err) {
		return f, nil
	}
	return Found{}, err
}

// absent reports whether nothing has that path.
func absent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// closed reports whether it must not be looked at.
func closed(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS)
}

func isRegular(st *unix.Statx_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFREG }

// addFile adds the names of a file that is there, or of the place where it would be.
func (v *view) addFile(f *Found, path string, st unix.Statx_t, there bool) error {
	paths, err := v.pathsOf(path)
	if err != nil {
		return err
	}
	for _, p := range paths {
		f.add(p)
	}
	if !there {
		return nil
	}
	if len(paths) == 3 { // the directory exists; the last path has no links
		others, err := v.throughOtherMounts(paths[2])
		if err != nil {
			return err
		}
		for _, p := range others {
			if len(f.Names) == most-1 { // the last one is kept for hard links
				break
			}
			f.add(p)
		}
	}
	if !isRegular(&st) || st.Nlink < 2 {
		return nil
	}
	f.Links = st.Nlink
	return f.addLocal(fmt.Sprintf("file %d:%d %d", st.Dev_major, st.Dev_minor, st.Ino))
}

// bootID is the file with the id of this boot of this host: the numbers of devices and inodes have
// another meaning after the next boot and on other hosts. Only tests change these paths.
var bootID, sysfs = "/proc/sys/kernel/random/boot_id", "/sys"

// addLocal adds a name that means something on this host alone, until its next boot.
func (f *Found) addLocal(what string) error {
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return err
	}
	f.add(fmt.Sprintf("dlmlock %s %s", bytes.TrimSpace(boot), what))
	return nil
}

// addDevice adds what all spellings of a block device have in common. The names of
// multipath devices may be each host's own, their UUIDs are not.
func (f *Found) addDevice(major, minor uint32) error {
	dir := fmt.Sprintf("%s/dev/block/%d:%d", sysfs, major, minor)
	if _, err := os.Stat(dir); err != nil {
		return err
	}
	id, err := attribute(dir + "/dm/uuid")
	if err != nil {
		return err
	}
	if isMultipath(id) {
		f.add("/dev/disk/by-id/dm-uuid-" + id)
		return nil
	}
	// With LVM the name is made of the names of the volume and its group, which are on the disk.
	name, err := attribute(dir + "/dm/name")
	switch {
	case err != nil:
		return err
	case name != "":
		f.add("/dev/mapper/" + name)
		return nil
	}
	// What other hosts call a plain disk is not known. Only the same spelling excludes them, for
	// example that of a link in /dev/disk/by-id.
	return f.addLocal(fmt.Sprintf("block %d:%d", major, minor))
}

// isMultipath reports whether a UUID of the device mapper is that of a multipath
// device, or of a partition of one ("part1-mpath-...").
func isMultipath(uuid string) bool {
	at := strings.Index(uuid, "mpath-")
	return at == 0 || at > 0 && strings.HasPrefix(uuid, "part")
}

// attribute reads a file of sysfs. It returns "" if the device has no such attribute, for which
// drivers return several errors; any other error means that the attribute is not known.
func attribute(path string) (string, error) {
	b, err := os.ReadFile(path)
	for _, lacking := range []error{unix.ENOENT, unix.ENOTDIR, unix.EINVAL, unix.ENXIO, unix.ENODEV, unix.ENODATA,
		unix.EOPNOTSUPP} {
		if errors.Is(err, lacking) {
			return "", nil
		}
	}
	return string(bytes.TrimRight(b, " \t\n")), err
}
