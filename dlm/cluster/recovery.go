package cluster

import (
	"slices"

	"golang.org/x/sys/unix"
)

// stopped interprets a recover_status.
func stopped(status uint32) bool { return status&recovered == 0 }

// Recovery shows whether a program can make a request in a lockspace without becoming stuck in the
// kernel, or making it panic. It keeps its files open, so checking it before each request costs one
// pread(2) and one fstat(2). Only one goroutine may use it.
type Recovery struct {
	host      *Host
	lockspace string
	status    int // recover_status, or -1
	comms     int // the directory with the addresses of the nodes, or -1
	// reachable is the last state of that directory in which every member of the lockspace had an
	// address.
	reachable dirState
	now, seen dirState // as Stopped last saw the directory, and as it was in the last call of Changed
}

// dirState changes with each entry that a directory gains or loses.
type dirState struct {
	links   uint64 // 2 and the number of directories in it
	changed unix.Timespec
}

// Recovery opens the recovery state of a lockspace. A file that can't be read never makes the
// lockspace count as stopped; then the kernel makes the caller wait.
func (h *Host) Recovery(lockspace string) *Recovery {
	r := &Recovery{host: h, lockspace: lockspace}
	r.status = openFD(h.path(sysfs, lockspace, "recover_status"), unix.O_RDONLY)
	r.comms = openFD(h.path(configfs, "comms"), unix.O_PATH|unix.O_DIRECTORY)
	return r
}

// openFD opens a file and returns its descriptor, or -1.
func openFD(path string, flags int) int {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// Stopped reports whether the lockspace is stopped now, or is about to be because a member has
// failed. It must not be called during Close.
func (r *Recovery) Stopped() bool { return r.stoppedInKernel() || r.memberUnreachable() }

func (r *Recovery) stoppedInKernel() bool {
	if r.status < 0 {
		return false
	}
	var text [16]byte
	n, err := unix.Pread(r.status, text[:], 0) // os.File's would read once more to see the end
	if err != nil {
		return false
	}
	status, err := parseNumber(16, text[:n])
	return err == nil && stopped(status)
}

// memberUnreachable reports whether the address of a member has been removed. dlm_controld does that
// as soon as corosync reports that the node is gone, and stops the lockspace a moment later. In
// between the kernel loses the lookup of a resource's master if the lost node is the directory node:
// every request of this node for that resource then waits forever, and the kernel panics when such a
// request is canceled or its process ends (docs/kernel-bugs/08.md). So requests have to wait. A
// request can still be lost if the address is removed in the microseconds between this check and
// the request.
func (r *Recovery) memberUnreachable() bool {
	var st unix.Stat_t
	if r.comms < 0 || unix.Fstat(r.comms, &st) != nil {
		return false
	}
	r.now = dirState{links: uint64(st.Nlink), changed: st.Mtim}
	if r.now == r.reachable {
		return false
	}
	members, err := r.host.names(configfs, "spaces", r.lockspace, "nodes")
	if err != nil {
		return false
	}
	addresses, err := r.host.names(configfs, "comms")
	if err != nil || len(addresses) == 0 {
		return false
	}
	if slices.ContainsFunc(members, func(m string) bool { return !slices.Contains(addresses, m) }) {
		return true
	}
	r.reachable = r.now
	return false
}

// Changed reports whether nodes have joined or left the cluster since the last call, as far as Stopped
// has seen. The first call after Stopped has looked reports true.
func (r *Recovery) Changed() bool {
	before := r.seen
	r.seen = r.now
	return r.seen != before
}

// Masterless returns the resources that a recovery has left without a master in the kernel. A
// request of this node for one of them makes the kernel panic, until another node has requested it
// or until the next recovery (docs/kernel-bugs/09.md). Masterless fails on kernels before 6.10, where
// reading their list is dangerous.
func (r *Recovery) Masterless() (map[string]bool, error) {
	table, err := r.host.openUnused(r.lockspace)
	if err != nil {
		return nil, err
	}
	defer table.Close()
	names := make(map[string]bool)
	err = readUnused(table, func(row unusedRow) bool {
		if row.node < 0 {
			names[string(row.name)] = true
		}
		return true
	})
	return names, err
}

// Close closes the files.
func (r *Recovery) Close() error {
	var first error
	for _, fd := range []*int{&r.status, &r.comms} {
		if *fd < 0 {
			continue
		}
		if err := unix.Close(*fd); err != nil && first == nil {
			first = err
		}
		*fd = -1
	}
	return first
}
