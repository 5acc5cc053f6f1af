package lockd

import (
	"context"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// watchHealth looks at this node and at every lockspace again and again. The
// daemon may have started before the cluster did.
//
// Each look is on its own: one that hangs, because dlm_controld does, must not
// keep what happens to another lockspace.
func (s *Service) watchHealth() {
	var looking sync.Map // the names of the lockspaces that are being looked at; "": the node
	begin := func(what string, look func()) {
		if _, already := looking.LoadOrStore(what, nil); already {
			return
		}
		s.work.Go(func() {
			defer looking.Delete(what)
			look()
		})
	}
	tick := time.NewTicker(s.cfg.HealthInterval)
	defer tick.Stop()
	begin("", s.lookNode)
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		begin("", s.lookNode)
		names := make(chan []string, 1)
		s.post(func() { names <- s.t.LockspaceNames() })
		select {
		case <-s.ctx.Done():
			return
		case in := <-names:
			for _, name := range in {
				begin(name, func() { s.lookHealth(name) })
			}
		}
	}
}

func (s *Service) lookNode() {
	ctx, cancel := context.WithTimeout(s.ctx, lookTimeout)
	defer cancel()
	if n, err := s.cfg.Engine.Node(ctx); err == nil {
		s.post(func() { s.t.SetNode(n) })
	}
	q := AskQuorum(ctx, s.cfg.Engine)
	s.post(func() { s.t.SetQuorum(q) })
	if l, ok := s.cfg.Engine.(dlm.NameLooker); ok {
		names, err := l.NodeNames(ctx)
		s.post(func() { s.t.SetNames(names, err) })
	}
}

// AskQuorum asks an engine for the cluster's quorum.
func AskQuorum(ctx context.Context, e dlm.Engine) api.Quorum {
	l, ok := e.(dlm.QuorumLooker)
	if !ok {
		return api.QuorumUnknown
	}
	switch quorate, err := l.Quorum(ctx); {
	case err != nil:
		return api.QuorumUnknown
	case quorate:
		return api.Quorate
	}
	return api.Inquorate
}

func (s *Service) lookHealth(name string) {
	ctx, cancel := context.WithTimeout(s.ctx, lookTimeout)
	defer cancel()
	h, err := s.looker.Health(ctx, name)
	s.post(func() { s.t.SetHealth(name, h, err == nil) })
}
