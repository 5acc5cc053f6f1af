package virtlockd

import (
	"crypto/sha256"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/virtlockd/disknames"
)

// A disk is locked under the names that dlmlock.so gives it (libvirt/naming.c,
// docs/libvirt.md), so that a host with either driver protects it from the other.
// What libvirt's driver sends depends on qemu-lockd.conf:
//
//	none of the directories   path "" and the disk's path: its names are made here
//	file_lockspace_dir        the directory and the SHA-256 of the path, in hex,
//	                          which is one of dlmlock.so's names
//	lvm_lockspace_dir         the directory and the UUID of the volume, with dashes,
//	                          which dlmlock.so does not have
//	scsi_lockspace_dir        the directory and the id of the device as scsi_id
//	                          prints it
//	a <lease>                 its target's path "/" its lockspace, and its key

// target is what a call names.
type target struct {
	lockspace string
	resources []string
	what      string // the disk or the lease, for people
	disk      string // its path, of which resources are the names by its spelling; "" if it is not known
}

// target finds out what a call means.
func (s *Settings) target(r resourceArgs) (t target, err error) {
	t.what = clip(r.Name, maxShown)
	if r.Path == "" {
		t.lockspace, t.resources, t.disk = s.Lockspace, disknames.Spelled(r.Name), r.Name
		return t, nil
	}
	t.what = clip(r.Path+"/"+r.Name, maxShown)
	if lockspace, ok := s.directory(r.Path); ok {
		t.lockspace, t.resources = lockspace, []string{deviceName(r.Name)}
		return t, nil
	}
	t.lockspace, t.resources = path.Base(r.Path), []string{r.Name}
	if len(r.Name) == 0 || len(r.Name) > dlm.MaxResourceName {
		return t, newFault(codeOperationFailed, domainLockspace, fmt.Sprintf(
			"the lease '%s' can't be locked: its key has %d bytes, and names of the DLM have 1 to %d; give it a shorter key",
			t.what, len(r.Name), dlm.MaxResourceName))
	}
	return t, nil
}

// directories are those of the comments in qemu-lockd.conf, which need not be in
// the configuration.
var directories = []string{"/var/lib/libvirt/lockd/files", "/var/lib/libvirt/lockd/lvmvolumes",
	"/var/lib/libvirt/lockd/scsivolumes"}

// directory finds the lockspace of a directory in qemu-lockd.conf.
func (s *Settings) directory(dir string) (lockspace string, ok bool) {
	dir = path.Clean(dir)
	for name, lockspace := range s.Directories {
		if path.Clean(name) == dir {
			return lockspace, true
		}
	}
	for _, name := range directories {
		if name == dir {
			return s.Lockspace, true
		}
	}
	return "", false
}

// noteDirectory logs that disks of a directory will be refused.
func (c *connection) noteDirectory(dir string) {
	if _, ok := c.door.settings.Load().directory(dir); !ok && dir != "" {
		c.relieve()
		c.door.log.Warn("libvirt uses a lockspace directory that has no lockspace; add it to [virtlockd.lockspaces] in "+
			"dlmlockd.toml", "path", dir)
	}
}

// deviceName is the name of a disk by which libvirt's driver knows it in one of its
// directories. A volume's UUID has no dashes in the names of the device mapper,
// where dlmlock.so finds it; an id that is too long, or that has blanks, counts by
// its SHA-256 there.
func deviceName(name string) string {
	switch {
	case isVolumeUUID(name):
		return strings.ReplaceAll(name, "-", "")
	case len(name) > dlm.MaxResourceName || strings.ContainsAny(name, " \t"):
		return disknames.Hash(name)
	}
	return name
}

// isVolumeUUID reports whether that is the UUID of a logical volume as lvs(8)
// prints it: 32 letters and digits in groups of 6, 4, 4, 4, 4, 4 and 6.
func isVolumeUUID(s string) bool {
	if len(s) != 38 {
		return false
	}
	for i, r := range []byte(s) {
		dash := i == 6 || i == 11 || i == 16 || i == 21 || i == 26 || i == 31
		letter := '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		if dash != (r == '-') || !dash && !letter {
			return false
		}
	}
	return true
}

// maxShown is how much is shown of a name, in bytes.
const maxShown = 512

// clip shortens a text for people. Two that differ still do.
func clip(s string, most int) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s), "?")
	if len(s) <= most {
		return s
	}
	cut := most - 2*sha256.Size - 4
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…" + disknames.Hash(s)
}
