package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Host is one machine as the DLM sees it.
type Host struct {
	root    string   // prefix of /sys, /proc and /dev
	sockets []string // where dlm_controld may answer queries, in this order
}

const (
	// querySocket is dlm_controld's own socket (DLMC_QUERY_SOCK_PATH in its dlm_controld.h). It is
	// abstract, and abstract sockets belong to a network namespace.
	querySocket = "@dlmc_query_sock"
	// ForwardSocket leads to it from other network namespaces: the unit dlmlockd-controld.socket,
	// without which the service could not reach dlm_controld from its sandbox.
	ForwardSocket = "/run/dlmlockd-controld.sock"
)

// Local returns the machine on which the program runs.
func Local() *Host { return At("/", querySocket, ForwardSocket) }

// At returns a machine whose files are below root and whose dlm_controld answers on the first of
// the given unix sockets that accepts connections; a leading @ marks an abstract one.
func At(root string, sockets ...string) *Host { return &Host{root: root, sockets: sockets} }

const (
	configfs = "sys/kernel/config/dlm/cluster"
	sysfs    = "sys/kernel/dlm"
	debugfs  = "sys/kernel/debug/dlm"
)

func (h *Host) path(parts ...string) string {
	return filepath.Join(append([]string{h.root}, parts...)...)
}

// number reads a file that contains one number. The base is that of strconv: with 0 the prefix
// decides.
func (h *Host) number(base int, parts ...string) (uint32, error) {
	b, err := os.ReadFile(h.path(parts...))
	if err != nil {
		return 0, err
	}
	return parseNumber(base, b)
}

// parseNumber parses a number as the kernel writes it to a file.
func parseNumber(base int, text []byte) (uint32, error) {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(text)), base, 32)
	return uint32(n), err
}

// names lists a directory; a missing one is empty.
func (h *Host) names(parts ...string) ([]string, error) {
	entries, err := os.ReadDir(h.path(parts...))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Node returns the number that dlm_controld gave this node, the machine's name, and the cluster's
// name. The error wraps dlm.ErrClusterUnavailable while dlm_controld has not set the node up.
func (h *Host) Node(context.Context) (dlm.NodeInfo, error) {
	comms, err := h.names(configfs, "comms")
	for _, c := range comms {
		if local, err := h.number(10, configfs, "comms", c, "local"); err != nil || local != 1 {
			continue
		}
		id, err := h.number(10, configfs, "comms", c, "nodeid")
		if err != nil || id == 0 {
			continue
		}
		info := dlm.NodeInfo{ID: id}
		info.Name, _ = os.Hostname()
		if b, err := os.ReadFile(h.path(configfs, "cluster_name")); err == nil {
			info.Cluster = strings.TrimSpace(string(b))
		}
		return info, nil
	}
	unavailable := &dlm.Error{Op: "node", Err: dlm.ErrClusterUnavailable,
		Advice: "the kernel does not know which node this is: start corosync and dlm_controld"}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		unavailable.Errno = errno
	}
	return dlm.NodeInfo{}, unavailable
}

// Lockspaces lists the lockspaces that this node is a member of, no matter who uses them, sorted.
func (h *Host) Lockspaces(context.Context) ([]string, error) {
	names, err := h.names(sysfs)
	if err != nil {
		return nil, &dlm.Error{Op: "lockspaces", Err: err}
	}
	slices.Sort(names)
	return names, nil
}

// HasMisc reports whether the kernel has a misc device of that name now. It does not wait for udev,
// which creates the device file below /dev. After an error the answer is unknown.
func (h *Host) HasMisc(name string) (bool, error) {
	f, err := os.Open(h.path("proc/misc"))
	if err != nil {
		return false, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if _, found, ok := strings.Cut(strings.TrimSpace(lines.Text()), " "); ok && found == name {
			return true, nil
		}
	}
	return false, lines.Err()
}

// member checks that this node is in a lockspace.
func (h *Host) member(lockspace string) error {
	if err := dlm.CheckLockspace(lockspace); err != nil {
		return err
	}
	_, err := os.Stat(h.path(sysfs, lockspace))
	if errors.Is(err, os.ErrNotExist) {
		// Without the module there is no lockspace; without sysfs it is not known.
		if _, err = os.Stat(h.path("sys/kernel")); err == nil {
			return &dlm.Error{Op: "look", Lockspace: lockspace, Errno: syscall.ENOENT, Err: dlm.ErrNoLockspace,
				Advice: "join it first"}
		}
		return &dlm.Error{Op: "look", Lockspace: lockspace, Err: err, Advice: "mount sysfs at /sys"}
	}
	if err == nil {
		return nil
	}
	return &dlm.Error{Op: "look", Lockspace: lockspace, Err: err}
}
