package peer

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// method names what a request asks for.
type method uint8

const (
	methodName method = iota + 1
	methodNode
	methodOpen
	methodCreate
	methodRemove
	methodLockspaces
	methodQueues
	methodOrphans
	methodHealth
	methodUsers
	methodCloseEngine

	// Of a lockspace. These but closeSpace have no reply.
	methodLock
	methodConvert
	methodUnlock
	methodCancel
	methodAdopt
	methodPurge
	methodCloseSpace
)

// request goes from the client to the server.
type request struct {
	Seq      uint64 // of the reply; 0: none
	Method   method
	Space    uint64        // which handle; the client numbers them
	Name     string        // of a lockspace
	Timeout  time.Duration // 0: none
	Cookie   dlm.Cookie
	Resource string
	Mode     dlm.Mode
	Flags    dlm.Flags
	HasValue bool
	Value    dlm.Value
}

func (r *request) value() *dlm.Value {
	if !r.HasValue {
		return nil
	}
	return &r.Value
}

// message goes from the server to the client: an event or a reply.
type message struct {
	Space uint64 // of the event
	Event *dlm.Event

	Seq     uint64
	Failure *failure
	Name    string
	Names   []string
	Node    dlm.NodeInfo
	Queues  dlm.Queues
	Orphans []dlm.Orphan
	Health  dlm.Health
	Users   []dlm.User
}

// failure is an error on its way. What errors.Is can tell of a *dlm.Error
// arrives, other errors arrive as text.
type failure struct {
	Op, Lockspace, Resource, Advice string
	Errno                           syscall.Errno
	Sentinel                        int // 1 and up, in sentinels
	Text                            string
}

var sentinels = []error{
	dlm.ErrMode, dlm.ErrName, dlm.ErrNoLockspace, dlm.ErrLockspaceExists, dlm.ErrClosed,
	dlm.ErrClusterUnavailable, dlm.ErrUnsupported, context.Canceled, context.DeadlineExceeded,
}

func pack(err error) *failure {
	if err == nil {
		return nil
	}
	var f failure
	if e, ok := errors.AsType[*dlm.Error](err); ok {
		f = failure{Op: e.Op, Lockspace: e.Lockspace, Resource: e.Resource, Advice: e.Advice, Errno: e.Errno}
		if e.Err != nil {
			f.Text = e.Err.Error()
		}
		err = e.Err
	} else {
		f.Text = err.Error()
	}
	for i, s := range sentinels {
		if errors.Is(err, s) {
			f.Sentinel = i + 1
		}
	}
	return &f
}

func (f *failure) unpack() error {
	if f == nil {
		return nil
	}
	var inner error
	switch {
	case f.Sentinel > 0 && f.Sentinel <= len(sentinels):
		inner = sentinels[f.Sentinel-1]
	case f.Text != "":
		inner = errors.New(f.Text)
	}
	if f.Op == "" {
		return inner
	}
	return &dlm.Error{Op: f.Op, Lockspace: f.Lockspace, Resource: f.Resource, Advice: f.Advice, Errno: f.Errno, Err: inner}
}
