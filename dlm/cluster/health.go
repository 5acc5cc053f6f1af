package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dlmlock/dlmlockd/dlm"
)

// recovered is the bit of recover_status that is set when this node has done its part of a recovery
// (DLM_RS_DONE); stopping a lockspace clears all bits (dlm_ls_stop in fs/dlm/member.c). Only the
// node with the lowest number notes that all nodes have done theirs (DLM_RS_DONE_ALL, 0x80;
// wait_status in fs/dlm/recover.c).
const recovered = 0x40

// Health combines what sysfs, configfs and dlm_controld say about a lockspace.
func (h *Host) Health(ctx context.Context, lockspace string) (dlm.Health, error) {
	if err := h.member(lockspace); err != nil {
		return dlm.Health{}, err
	}
	var health dlm.Health
	var err error
	if health.Recovery, err = h.number(16, sysfs, lockspace, "recover_status"); err != nil {
		return dlm.Health{}, &dlm.Error{Op: "look", Lockspace: lockspace, Err: err,
			Advice: "the kernel does not say whether it is stopped"}
	}
	health.Stopped = stopped(health.Recovery)
	health.Members = h.Members(lockspace)
	st, err := h.status(ctx)
	if err != nil {
		if health.Stopped {
			health.Reason = "dlm_controld does not answer, and without it the kernel stops every lockspace"
		}
		return health, nil
	}
	health.Quorate, health.Known = st.quorate, true
	if health.Stopped {
		health.Reason = reason(&health, st)
	}
	return health, nil
}

// Quorum asks dlm_controld whether the cluster has quorum. The error wraps
// dlm.ErrClusterUnavailable.
func (h *Host) Quorum(ctx context.Context) (quorate bool, err error) {
	st, err := h.status(ctx)
	if err != nil {
		return false, &dlm.Error{Op: "quorum", Err: fmt.Errorf("%w: %w", dlm.ErrClusterUnavailable, err),
			Advice: "dlm_controld does not answer: start corosync and dlm_controld"}
	}
	return st.quorate, nil
}

// reason says in words why a lockspace is stopped.
func reason(health *dlm.Health, st *status) string {
	switch {
	case !st.quorate:
		return "no quorum"
	case len(st.fencing) == 1:
		return fmt.Sprintf("fencing node %d", st.fencing[0])
	case len(st.fencing) > 1:
		return "fencing nodes " + strings.Trim(strings.ReplaceAll(fmt.Sprint(st.fencing), " ", ", "), "[]")
	case health.Recovery != 0:
		return "the kernel is recovering the locks"
	case len(health.Members) == 0:
		return "dlm_controld does not know the lockspace"
	}
	return "nodes are joining or leaving"
}

// Members lists the nodes in a lockspace, sorted, as dlm_controld last told the kernel. It is empty
// if configfs can't be read.
func (h *Host) Members(lockspace string) []uint32 {
	names, _ := h.names(configfs, "spaces", lockspace, "nodes")
	var ids []uint32
	for _, n := range names {
		if id, err := h.number(10, configfs, "spaces", lockspace, "nodes", n, "nodeid"); err == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// ClusterMembers lists the members of the cluster, this node included, sorted, as dlm_controld last
// told the kernel.
func (h *Host) ClusterMembers(ctx context.Context) ([]uint32, error) {
	if _, err := h.Node(ctx); err != nil {
		return nil, err
	}
	names, err := h.names(configfs, "comms")
	if err != nil {
		return nil, &dlm.Error{Op: "members", Err: err}
	}
	var ids []uint32
	for _, n := range names {
		if id, err := h.number(10, configfs, "comms", n, "nodeid"); err == nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// LockspaceID returns the number by which the nodes of a cluster know a lockspace: a checksum of
// its name.
func (h *Host) LockspaceID(lockspace string) (uint32, error) {
	return h.number(10, sysfs, lockspace, "id")
}
