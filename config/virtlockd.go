package config

import (
	"maps"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The bounds of virtlockd.timeout. libvirt waits without end, and the guest that it
// asks for can't be used meanwhile.
const (
	minVirtlockdTimeout = 100 * time.Millisecond
	maxVirtlockdTimeout = time.Minute
)

// MaxSocketPath is the maximum length of the path of a socket, in bytes (unix(7)).
const MaxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// virtlockd checks the table [virtlockd].
func (v *validator) virtlockd(f *file, c *Virtlockd) {
	t := &f.Virtlockd
	if s, ok := v.text("virtlockd.socket", t.Socket); ok && s != "" {
		c.Socket = s
		if !filepath.IsAbs(s) {
			v.fail("virtlockd.socket", "%q must be an absolute path", s)
		}
		v.fileName("virtlockd.socket", s)
		if len(s) > MaxSocketPath {
			v.fail("virtlockd.socket", "the path of a socket has at most %d bytes, this one has %d", MaxSocketPath, len(s))
		}
	}
	if s, ok := v.text("virtlockd.lockspace", t.Lockspace); ok {
		v.lockspace("virtlockd.lockspace", s, nil)
		c.Lockspace = s
	}
	if s, ok := v.text("virtlockd.timeout", t.Timeout); ok {
		c.Timeout = v.duration("virtlockd.timeout", s, minVirtlockdTimeout, maxVirtlockdTimeout)
	}
	if s, ok := v.text("virtlockd.helper", t.Helper); ok && s != "" {
		c.Helper = s
		if _, ok := f.OnLost[s]; !ok {
			v.fail("virtlockd.helper", "there is no table [on-lost.%s]", s)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(t.Lockspaces)) {
		key := "virtlockd.lockspaces." + dir
		if !filepath.IsAbs(dir) {
			v.fail(key, "%q must be the absolute path of a lockspace directory in qemu-lockd.conf", dir)
		}
		s, ok := v.text(key, t.Lockspaces[dir])
		if !ok {
			continue
		}
		v.lockspace(key, s, nil)
		if c.Lockspaces == nil {
			c.Lockspaces = map[string]string{}
		}
		if other, twice := c.Lockspaces[filepath.Clean(dir)]; twice && other != s {
			v.fail(key, "the same directory has the lockspace %q in another line; keep one of them", other)
		}
		c.Lockspaces[filepath.Clean(dir)] = s
	}
}

// All are the lockspaces that disks are locked in, each once.
func (c *Virtlockd) All() []string {
	all := append(slices.Collect(maps.Values(c.Lockspaces)), c.Lockspace)
	slices.Sort(all)
	return slices.Compact(all)
}
