package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Queues reads a resource from the kernel's table in debugfs. The master of a resource has the
// locks of all nodes there, other nodes only their own.
func (h *Host) Queues(ctx context.Context, lockspace, name string) (dlm.Queues, error) {
	all, err := h.QueuesOf(ctx, lockspace, []string{name})
	if err != nil {
		return dlm.Queues{}, err
	}
	return all[0], nil
}

// QueuesOf reads several resources, as Queues does, in one pass through the table. It stops at the
// last of them, or when the context ends.
func (h *Host) QueuesOf(ctx context.Context, lockspace string, names []string) ([]dlm.Queues, error) {
	if err := h.member(lockspace); err != nil {
		return nil, err
	}
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		if err := dlm.CheckResource(name); err != nil {
			return nil, err
		}
		wanted[name] = true
	}
	// Without the node's number the queues are still right, except for whose the locks are.
	var own uint32
	if info, err := h.Node(ctx); err == nil {
		own = info.ID
	}
	// The call does not fail with an error of readQueues: what was found before it is true, and
	// each of the others says in Missing that it is not known.
	found, err := h.readQueues(ctx, lockspace, wanted, own)
	all := make([]dlm.Queues, len(names))
	for i, name := range names {
		q, ok := found[name]
		switch {
		case ok:
			all[i] = q
		case err != nil:
			all[i].Missing = unreadable(err)
		default:
			all[i] = h.unused(lockspace, name, own)
		}
	}
	return all, nil
}

// readQueues reads the resources that are wanted. With an error it returns those that it found
// before.
func (h *Host) readQueues(ctx context.Context, lockspace string, wanted map[string]bool,
	own uint32) (map[string]dlm.Queues, error) {
	table, err := os.Open(h.path(debugfs, lockspace+"_all"))
	if err != nil {
		return nil, err
	}
	defer table.Close()
	found := make(map[string]dlm.Queues, len(wanted))
	seen := 0
	const check = 1024 // how often to look at the context, in resources
	var over error
	err = readTable(table, func(n []byte) bool {
		if seen++; seen%check == 0 {
			over = ctx.Err()
		}
		return over != nil || wanted[string(n)]
	}, func(r *resource) bool {
		if over != nil {
			return false
		}
		found[r.name] = r.queues(own)
		return len(found) < len(wanted)
	})
	return found, cmp.Or(err, over)
}

func unreadable(err error) string {
	return fmt.Sprintf("the kernel's lock tables can't be read (%v): neither holders nor waiters are known", err)
}

// unused answers for a resource that is not in the table: this node has no lock on it and is not
// its master, or nobody has a lock on it.
//
// The kernel may forget the resource after one table was read and before the other is. Then the
// answer is that it is not known, which is true.
func (h *Host) unused(lockspace, name string, own uint32) dlm.Queues {
	var q dlm.Queues
	if table, err := h.openUnused(lockspace); err == nil {
		q.Master, _, _ = readMaster(table, name)
		table.Close()
	}
	switch {
	case q.Master == 0:
		q.Missing = "no lock of this node is on the resource, so this node does not know who has one"
	case q.Master == own:
		q.Complete = true
	default:
		q.Missing = elsewhere(q.Master)
	}
	return q
}

// errUnusedUnsafe says that the kernel's list of unused resources must not be read.
var errUnusedUnsafe = errors.New("kernels before 6.10 can crash when their list of unused resources is read")

// openUnused opens the table of unused resources of a lockspace. Before 6.10, a reader of this table
// holds references to its entries, which the kernel does not expect: if it frees or reuses one at
// that moment, its tables are damaged, and it crashes (docs/kernel-bugs/10.md).
func (h *Host) openUnused(lockspace string) (*os.File, error) {
	release, err := os.ReadFile(h.path("proc/sys/kernel/osrelease"))
	if err != nil {
		return nil, err
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &major, &minor); err != nil {
		return nil, fmt.Errorf("release of the kernel %q: %w", release, err)
	}
	if major < 6 || major == 6 && minor < 10 {
		return nil, errUnusedUnsafe
	}
	return os.Open(h.path(debugfs, lockspace+"_toss"))
}

func elsewhere(master uint32) string {
	return fmt.Sprintf("node %d keeps the queues of this resource; only locks of this node are shown", master)
}

// queues sorts the locks of a resource into queues. own is this node's number, 0 if unknown.
func (r *resource) queues(own uint32) dlm.Queues {
	var q dlm.Queues
	switch {
	case r.master == 0:
		q.Master, q.Complete = own, true
		q.Value, q.HasValue = r.value, r.hasValue
	case r.master > 0:
		q.Master = uint32(r.master)
		q.Missing = elsewhere(q.Master)
	default:
		q.Missing = "the master of this resource is being looked up"
	}
	for _, e := range r.locks {
		held := dlm.Held{LockID: e.id, Node: e.owner(r, own), Mode: e.granted, Wanted: dlm.None}
		switch e.status {
		case granted:
			q.Granted = append(q.Granted, held)
		case converting:
			held.Wanted = e.requested
			q.Converting = append(q.Converting, held)
		default: // waiting, or looking for the master to wait there
			held.Mode, held.Wanted = dlm.None, e.requested
			q.Waiting = append(q.Waiting, held)
		}
	}
	return q
}

// owner returns the node to which a lock belongs.
func (e *entry) owner(r *resource, own uint32) uint32 {
	if r.master == 0 && e.node != 0 {
		return e.node
	}
	return own
}

// Orphans lists the persistent locks of this node that belong to no process. held reports whether
// the caller itself has the lock with that lockid; nil stands for none. The error wraps that of
// debugfs if it can't be read.
//
// Kernels before 6.4 mark orphans in the table. Later ones don't: there a persistent lock counts as
// an orphan if the caller does not have it and the thread that requested it does not belong to a
// process that has the lockspace's device open. (A lock of another live process is listed by
// mistake only if that process has ended the thread that requested it.)
func (h *Host) Orphans(ctx context.Context, lockspace string, held func(dlm.LockID) bool) ([]dlm.Orphan, error) {
	if err := h.member(lockspace); err != nil {
		return nil, err
	}
	table, err := os.Open(h.path(debugfs, lockspace+"_all"))
	if err != nil {
		return nil, &dlm.Error{Op: "look", Lockspace: lockspace, Err: err,
			Advice: "orphans can only be seen in debugfs"}
	}
	defer table.Close()
	var users *users
	alive := func(tid int) bool {
		if users == nil {
			users = h.users(ctx, lockspace)
		}
		return users.has(tid)
	}
	var orphans []dlm.Orphan
	err = readTable(table, func([]byte) bool { return true }, func(r *resource) bool {
		for i := range r.locks {
			if e := &r.locks[i]; e.isOrphan(r, held, alive) {
				orphans = append(orphans, dlm.Orphan{LockID: e.id, Resource: r.name, Mode: e.granted})
			}
		}
		return true
	})
	if err != nil {
		return nil, &dlm.Error{Op: "look", Lockspace: lockspace, Err: err}
	}
	slices.SortFunc(orphans, func(a, b dlm.Orphan) int { return int(int64(a.LockID) - int64(b.LockID)) })
	return orphans, nil
}

// isOrphan decides for one lock. In doubt the lock is no orphan, because somebody may purge what
// is listed as one.
func (e *entry) isOrphan(r *resource, held func(dlm.LockID) bool, alive func(tid int) bool) bool {
	switch {
	case r.master == 0 && e.node != 0: // another node's
		return false
	case e.flags&dlm.Persistent == 0, e.granted == dlm.None:
		return false
	case held != nil && held(e.id):
		return false
	case e.internal&flagUser != 0: // a kernel before 6.4, which knows
		return e.internal&flagOrphan != 0
	}
	return !alive(e.pid)
}
