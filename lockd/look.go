package lockd

import (
	"context"
	"errors"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// lookTimeout bounds a look at the engine's tables, briefTimeout one that a
// holder waits for to be told of.
const (
	lookTimeout  = 5 * time.Second
	briefTimeout = 500 * time.Millisecond
)

func (s *Service) look(a lookAction) {
	limit := lookTimeout
	if a.brief {
		limit = briefTimeout
	}
	s.work.Go(func() {
		ctx, cancel := context.WithTimeout(s.ctx, limit)
		defer cancel()
		k := lookAt(ctx, s.looker, a)
		s.post(func() { a.then(k) })
	})
}

// lookAt looks at what a lookAction asks for. looker may be nil.
func lookAt(ctx context.Context, looker dlm.Looker, a lookAction) (k looked) {
	if looker == nil {
		err := errors.New("this engine shows no lock tables")
		return looked{missing: []string{err.Error()}, orphansErr: err, usersErr: err}
	}
	var err error
	if a.resource == "" {
		k.orphans, err = looker.Orphans(ctx, a.sp.name)
		k.hasOrphans, k.orphansErr = err == nil, lookError(err)
	} else {
		k.queues, err = looker.Queues(ctx, a.sp.name, a.resource)
		k.hasQueues = err == nil
		if err == nil && k.queues.Missing != "" {
			k.missing = append(k.missing, k.queues.Missing)
		}
	}
	if err != nil {
		k.missing = append(k.missing, err.Error())
	}
	if a.users {
		k.users, k.usersErr = looker.Users(ctx, a.sp.name)
	}
	if !a.brief {
		if h, err := looker.Health(ctx, a.sp.name); err == nil {
			k.health, k.hasHealth = h, true
		}
	}
	return k
}

// removeUnused removes a lockspace that no other process uses, as far as can be
// seen immediately before. An error that is an *Error says that it was not even
// tried.
func removeUnused(ctx context.Context, e dlm.Engine, name string) error {
	looker, ok := e.(dlm.Looker)
	if !ok {
		return inUse(name, nil, errors.New("this engine shows no users"))
	}
	users, err := looker.Users(ctx, name)
	if err != nil && errors.Is(err, dlm.ErrNoLockspace) {
		return err
	}
	if err != nil || len(users) > 0 {
		return inUse(name, users, err)
	}
	return e.Remove(ctx, name)
}
