package virtlockd

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
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
	api.HintJoin:           "add it to lockspaces in /etc/dlmlockd.toml and do \"systemctl reload dlmlockd\"",
	api.HintLockspaceState: "\"dlmlockctl lockspaces\" shows its state",
	api.HintListLockspaces: "\"dlmlockctl lockspaces\" lists those that there are",
	api.HintInspect:        "\"dlmlockctl list\" shows what is held",
	api.HintListLocks:      "\"dlmlockctl list\" shows what is held",
}}

// inspectTime is how long a refusal waits for the name of who is in the way.
const inspectTime = time.Second

// busy is the answer where the disk is locked.
func (o *operation) busy(err error) error {
	if errors.Is(err, api.AlreadyHeld) {
		return newFault(codeResourceBusy, domainLockspace, fmt.Sprintf(
			"'%s' is locked by domain '%s' itself, but not in the mode (shared or exclusive) that is asked for now", o.what,
			o.domain.name))
	}
	who := "somebody else"
	if e, ok := errors.AsType[*api.Error](err); ok {
		if name := o.holder(e.Lockspace, e.Resource); name != "" {
			who = name
		} else if e.Holder != "" {
			who = e.Holder
		}
	}
	return newFault(codeResourceBusy, domainLockspace, fmt.Sprintf("'%s' is in use by %s; stop that domain first, "+
		"or wait until it has ended", o.what, who))
}

// holder names who has a resource; "" if that can't be found out in time.
func (o *operation) holder(lockspace, resource string) string {
	deadline := time.Now().Add(inspectTime)
	if o.deadline.Before(deadline) {
		deadline = o.deadline
	}
	in, found, err := await(deadline, func(done func(api.Inspection, error)) {
		o.session.inspect(lockspace, resource, done)
	})
	if err != nil || !found {
		return ""
	}
	for i := range in.Locks {
		l := &in.Locks[i]
		if l.Mode != dlm.None && !dlm.Compatible(l.Mode, o.mode) && l.Owner != o.domain.owner() {
			return o.called(l.Label, l.Owner) + o.here()
		}
	}
	if in.HasHolder && in.Holder.Node != 0 {
		return o.called(in.Holder.Who, "") + fmt.Sprintf(" on node %d", in.Holder.Node)
	}
	return ""
}

func (o *operation) here() string {
	if n := o.door.service.node(); n != 0 {
		return fmt.Sprintf(" on node %d (this one)", n)
	}
	return " on this node"
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
