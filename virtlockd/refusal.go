package virtlockd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// fault makes the answer of a call that could not be done.
func (o *operation) fault(what string, err error) error {
	return newFault(codeOperationFailed, domainLockspace, fmt.Sprintf("'%s' of domain '%s' %s: %s", o.what,
		o.domain.name, what, wording.Message(err)))
}

// late is the answer of a call that is not done in time.
func (o *operation) late(what string) error {
	return o.fault(what, fmt.Errorf("the lock service has no answer after %v: the cluster is recovering, or "+
		"dlmlockd starts or hangs; \"dlmlockctl lockspaces\" says what it waits for, try again after that", o.timeout))
}

// wording says what an administrator of libvirt can do.
var wording = api.Wording{Hints: map[api.Hint]string{
	api.HintWait:           "try again later",
	api.HintWaitLonger:     "try again later",
	api.HintJoin:           "add it to lockspaces in /etc/dlmlockd.toml and do \"systemctl reload dlmlockd\"",
	api.HintLockspaceState: "\"dlmlockctl lockspaces\" shows its state",
	api.HintListLockspaces: "\"dlmlockctl lockspaces\" lists those that there are",
	api.HintInspect:        "\"dlmlockctl list\" shows what is held",
	api.HintListLocks:      "\"dlmlockctl list\" shows what is held",
}}

// busy is the answer where the disk is locked.
func (o *operation) busy(err error) error {
	if errors.Is(err, api.AlreadyHeld) {
		return newFault(codeResourceBusy, domainLockspace, fmt.Sprintf(
			"'%s' is locked by domain '%s' itself, but not in the mode (shared or exclusive) that is asked for now", o.what,
			o.domain.name))
	}
	who := "somebody else"
	if e, ok := errors.AsType[*api.Error](err); ok && e.Holder != nil {
		who = o.holder(e.Holder)
	}
	return newFault(codeResourceBusy, domainLockspace, fmt.Sprintf("'%s' is in use by %s; stop that domain first, "+
		"or wait until it has ended", o.what, who))
}

// holder says who has the disk.
func (o *operation) holder(h *api.HeldBy) string {
	if h.Node != 0 {
		return o.called(h.Label, "") + fmt.Sprintf(" on node %d", h.Node)
	}
	if n := o.door.service.node(); n != 0 {
		return o.called(h.Label, h.Owner) + fmt.Sprintf(" on node %d (this one)", n)
	}
	return o.called(h.Label, h.Owner) + " on this node"
}

// called makes words of a label, "DOMAIN: PATH", of which another node may tell the
// beginning only.
func (o *operation) called(label, owner string) string {
	domain, disk, whole := strings.Cut(label, ": ")
	if name, ok := strings.CutSuffix(label, ":"); ok {
		domain, whole = name, true
	}
	switch {
	case whole && strings.HasPrefix(disk, "/") && disk != o.what && !strings.HasPrefix(o.what, disk):
		return fmt.Sprintf("domain '%s' (as '%s')", domain, disk)
	case whole:
		return fmt.Sprintf("domain '%s'", domain)
	case label != "" && owner == "":
		return fmt.Sprintf("domain '%s…'", label)
	case label != "":
		return fmt.Sprintf("'%s'", label)
	}
	return fmt.Sprintf("'%s'", owner)
}
