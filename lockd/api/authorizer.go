package api

import (
	"context"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Action is something that not everybody may do. The text is the last part of
// the polkit action id.
type Action string

// The actions (org.example.DlmLock.ACTION in polkit).
const (
	ActInspect          Action = "inspect"
	ActAcquire          Action = "acquire"
	ActReleaseOthers    Action = "release-others"
	ActManageLockspaces Action = "manage-lockspaces"
	ActPurge            Action = "purge"
)

// Subject is who wants to do it: credentials that the message bus or the kernel
// vouches for.
type Subject struct {
	BusName string // unique name on the message bus; "" if the caller is not on it
	UID     uint32
	GIDs    []uint32
	// PID is the process that has connected, and Start its start time (process.ID),
	// read while PID was known to be the caller's; 0 where that is not known.
	PID         uint32
	Start       uint64
	Interactive bool // the caller allows that a person is asked
}

// Authorizer decides. It is asked before any state changes, may block, and
// gives up when the context ends. The error is an *Error of kind AccessDenied
// or another that says why nobody could be asked. It names the action alone: the
// front end puts in what the caller wanted to do.
type Authorizer interface {
	Authorize(ctx context.Context, s Subject, a Action, details map[string]string) error
}

// GroupAuthorizer lets root do everything, the members of one group acquire
// (and so convert and release what is theirs), and everybody inspect.
type GroupAuthorizer struct {
	GID      uint32
	HasGroup bool
	Group    string // its name, for the message
}

// Authorize never blocks.
func (g GroupAuthorizer) Authorize(_ context.Context, s Subject, a Action, _ map[string]string) error {
	if s.UID == 0 || a == ActInspect {
		return nil
	}
	if a == ActAcquire && g.HasGroup {
		for _, gid := range s.GIDs {
			if gid == g.GID {
				return nil
			}
		}
	}
	return &Error{Op: string(a), Mode: dlm.None, Kind: AccessDenied, Text: g.refusal(a)}
}

// refusal says who may do what somebody else has tried.
func (g GroupAuthorizer) refusal(a Action) string {
	switch {
	case a == ActAcquire && g.HasGroup:
		return "only root and members of the group " + g.Group + " may change locks"
	case a == ActAcquire:
		return "only root may change locks; an administrator can name a group in /etc/dlmlockd.toml (group = \"...\")"
	case a == ActReleaseOthers:
		return "it belongs to another user, and without polkit only root may release the locks of others or cancel " +
			"their requests"
	case a == ActManageLockspaces:
		return "without polkit only root may join and leave lockspaces"
	case a == ActPurge:
		return "without polkit only root may remove or adopt orphans"
	}
	return "without polkit only root may do this"
}
