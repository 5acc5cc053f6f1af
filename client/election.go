package client

import (
	"context"
	"errors"
	"sync"
)

// Election finds one leader among all candidates, on all nodes of the cluster: the holder
// of a lock. A candidate that dies is replaced once its process has ended; if its node
// dies, once the node has been fenced.
type Election struct {
	Client              *Client
	Lockspace, Resource string
	// Options are those of the lock. The others see the leader by the label. Wait is
	// ignored.
	Options Options

	mu     sync.Mutex
	resign func() error // nil: not elected
}

// ErrElected is the error of Campaign for a candidate that is the leader already.
var ErrElected = errors.New("this candidate is the leader already")

// Campaign waits until this candidate is elected, or until ctx ends; it then returns the
// error of ctx. The context that it returns ends with the leadership: if it is lost
// (ErrLost), resigned (ErrReleased), or if ctx ends. In each case Resign still has to be
// called.
func (e *Election) Campaign(ctx context.Context) (leading context.Context, err error) {
	e.mu.Lock()
	elected := e.resign != nil
	e.mu.Unlock()
	if elected {
		return nil, ErrElected
	}
	o := e.Options
	o.Wait = -1
	leading, resign, err := e.Client.lock(ctx, []Want{{e.Lockspace, e.Resource, "EX"}}, o)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.resign != nil { // two calls at once
		return nil, errors.Join(ErrElected, resign())
	}
	e.resign = resign
	return leading, nil
}

// Resign ends the leadership of this candidate; the candidate that waits longest is
// elected. It does nothing if this one is not the leader.
func (e *Election) Resign() error {
	e.mu.Lock()
	resign := e.resign
	e.resign = nil
	e.mu.Unlock()
	if resign == nil {
		return nil
	}
	return resign()
}

// ErrNoLeader is the error of Leader if nobody is known to lead.
var ErrNoLeader = errors.New("there is no leader")

// Leader says who leads now, as far as this node knows. Only the context of Campaign
// says whether this candidate does.
type Leader struct {
	Node  uint32 // 0: this one
	Label string // of the lock, or its owner; of a leader on another node the first eight bytes
	Token uint64 // the fencing token, which grows with each election
}

// Leader finds out who leads. The error is ErrNoLeader if nobody does.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	in, err := e.Client.Inspect(ctx, e.Lockspace, e.Resource)
	if err != nil {
		return Leader{}, err
	}
	for _, l := range in.Locks {
		if l.Mode == "EX" && l.State != "releasing" {
			who := l.Label
			if who == "" {
				who = l.Owner
			}
			return Leader{Label: who, Token: l.Token}, nil
		}
	}
	if h := in.Holder; h != nil && h.Node != 0 && h.Mode == "EX" {
		return Leader{h.Node, h.Who, h.Token}, nil
	}
	return Leader{}, ErrNoLeader
}
