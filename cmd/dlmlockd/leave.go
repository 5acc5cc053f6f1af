package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

const (
	// leaveTime bounds dlmlockd --leave as a whole. It is shorter than TimeoutStopSec of
	// dlmlockd-lockspaces.service.
	leaveTime = 50 * time.Second
	// userTime is how much of that it waits for processes that still have locks.
	userTime = 20 * time.Second
	// userPoll is how often it looks for them.
	userPoll = 200 * time.Millisecond
)

// leave is dlmlockd --leave: it makes this node leave every lockspace of the service, which must
// not be running. dlm_controld does not stop while this node is in a lockspace, and a node that
// goes down with dlm_controld running is fenced by the others.
//
// While the host stays up it refuses if locks are held. When the host goes down they end anyway:
// then it takes the locks back as a start does, which releases those whose process has ended, waits
// a moment for the other processes, and leaves. It keeps a lockspace in which a process still has a
// lock: the process may be writing what the lock protects, and only fencing keeps others from it.
// It also keeps a lockspace that another process has open, one with orphans that no record
// explains, and one that the service has not made.
//
// If this process dies between any two lines, the state file tells the next start of the service
// the same as if the service itself had died while it left.
func leave(ctx context.Context, o options, log *slog.Logger) (err error) {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	d := &daemon{opts: o, log: log}
	if err := d.openState(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.closeState()) }()
	down := hostGoesDown(ctx)
	held := d.heldLocks()
	if len(held) > 0 && !down {
		return fmt.Errorf("locks are held in %s, so no lockspace is left; start dlmlockd and release them "+
			"(dlmlockctl list shows them)",
			strings.Join(slices.Sorted(maps.Keys(held)), ", "))
	}
	if !down && d.helpersDue() {
		return errors.New("helpers of lost locks are still to be run, so no lockspace is left; start dlmlockd, " +
			"which runs them")
	}
	if d.watcher, err = process.NewWatcher(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.watcher.Close()) }()
	d.service = lockd.New(d.serviceConfig())
	// Not ctx: the service ends in order, also when the time is over.
	runCtx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.service.Run(runCtx) }()
	err = leaveAll(ctx, d.service, held, log)
	stop()
	return errors.Join(err, <-ended)
}

// heldLocks returns the lockspaces in which locks of this boot are recorded as held. Locks whose
// caller has had no answer (granted) or that are being released are nobody's.
func (d *daemon) heldLocks() map[string]bool {
	held := map[string]bool{}
	if d.found.Header.BootID != d.bootID {
		return held
	}
	for _, l := range d.found.Locks {
		if l.Phase == state.Held {
			held[l.Lockspace] = true
		}
	}
	return held
}

// helpersDue reports whether a lost lock is recorded whose helper (on-lost) has not ended. Only the
// running service runs helpers.
func (d *daemon) helpersDue() bool {
	return slices.ContainsFunc(d.found.Locks, func(l state.Lock) bool { return l.Phase == state.Lost })
}

// leaveAll waits until the service has taken its locks back, then for the processes that use them,
// and leaves.
func leaveAll(ctx context.Context, service *lockd.Service, held map[string]bool, log *slog.Logger) error {
	select {
	case <-service.Ready():
	case <-ctx.Done():
		return ctx.Err()
	}
	used, err := awaitUsers(ctx, service)
	if err != nil {
		return err
	}
	return leaveUnused(ctx, service, used, held, log)
}

var keptMessage = msgLockspaceKept.String()

// leaveUnused leaves every lockspace except those that a process uses. If a lockspace with recorded
// locks could not be opened, that is not known, and it is kept.
func leaveUnused(ctx context.Context, service *lockd.Service, used map[string]uint32, held map[string]bool,
	log *slog.Logger) error {
	spaces, err := ask(ctx, service.Lockspaces)
	if err != nil {
		return err
	}
	var errs []error
	for _, sp := range spaces {
		kept := ""
		if pid, ok := used[sp.Name]; ok {
			kept = fmt.Sprintf("process %d still has a lock in it", pid)
		} else if sp.State == api.SpaceFailed && held[sp.Name] {
			kept = "its locks can't be looked at: " + sp.Error
		}
		if kept != "" {
			log.Error(keptMessage, "lockspace", sp.Name, "err", kept)
			errs = append(errs, fmt.Errorf("the lockspace %s is not left: %s", sp.Name, kept))
			continue
		}
		// With force: either nothing is held, or the host goes down, which ends the locks anyway.
		_, err := ask(ctx, func(done func(struct{}, error)) {
			service.Leave(api.Caller{Privileged: true}, sp.Name, true, func(err error) { done(struct{}{}, err) })
		})
		if err != nil {
			log.Error(keptMessage, "lockspace", sp.Name, "err", err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// awaitUsers waits a while for the end of the processes that have locks, and returns one for each
// lockspace in which some have not ended.
func awaitUsers(ctx context.Context, service api.Service) (map[string]uint32, error) {
	ctx, cancel := context.WithTimeout(ctx, userTime)
	defer cancel()
	for {
		// The last look has no time limit, because it decides what is left.
		used, err := users(context.WithoutCancel(ctx), service)
		if err != nil || len(used) == 0 {
			return used, err
		}
		select {
		case <-ctx.Done():
			return used, nil
		case <-time.After(userPoll):
		}
	}
}

// users finds one process with a lock in each lockspace that has any.
func users(ctx context.Context, service api.Service) (map[string]uint32, error) {
	used := map[string]uint32{}
	var f api.Filter
	for {
		p, err := ask(ctx, func(done func(api.Page, error)) { service.List(f, done) })
		if err != nil {
			return nil, err
		}
		for _, l := range p.Locks {
			if l.Lifetime == state.Process {
				used[l.Lockspace] = l.PID
			}
		}
		if f.After = p.Next; p.Next == 0 {
			return used, nil
		}
	}
}

// ask calls the service and waits for the answer.
func ask[T any](ctx context.Context, call func(done func(T, error))) (T, error) {
	type answer struct {
		value T
		err   error
	}
	c := make(chan answer, 1)
	call(func(v T, err error) { c <- answer{v, err} })
	select {
	case a := <-c:
		return a.value, a.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// hostGoesDown asks systemd. If that gives no answer, the host stays up: then locks that are held
// are a reason to refuse, which is the safe side.
func hostGoesDown(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// It exits with 1 for every state except "running".
	out, _ := exec.CommandContext(ctx, "systemctl", "is-system-running").Output()
	return strings.TrimSpace(string(out)) == "stopping"
}
