package libdlm

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/cluster"
)

// Engine is this process's access to the kernel's DLM. It implements dlm.Engine, dlm.Looker,
// dlm.QuorumLooker and dlm.NameLooker.
type Engine struct {
	library library
	host    *cluster.Host
	log     *slog.Logger

	starting sync.Mutex // held while the library looks for the control device
	started  bool

	mu     sync.Mutex
	spaces map[*lockspace]struct{}
	// uevents is opened with the first lockspace; nil if that failed.
	uevents *uevents
	closed  bool

	// blind says that devices could not be looked at, and that this was logged.
	blind      atomic.Bool
	rechecking atomic.Bool // another look at the devices is scheduled
}

var (
	_ dlm.Engine = (*Engine)(nil)
	_ dlm.Looker = (*Engine)(nil)

	_ dlm.QuorumLooker = (*Engine)(nil)
	_ dlm.NameLooker   = (*Engine)(nil)
	_ dlm.MemberLooker = (*Engine)(nil)
)

func newEngine(l library, log *slog.Logger) *Engine {
	return &Engine{library: l, host: cluster.Local(), log: log, spaces: make(map[*lockspace]struct{})}
}

// Name returns "dlm".
func (e *Engine) Name() string { return "dlm" }

// Node reads who this node is from configfs, where dlm_controld writes it.
func (e *Engine) Node(ctx context.Context) (dlm.NodeInfo, error) {
	return e.host.Node(ctx)
}

// Lockspaces lists the lockspaces in sysfs, including those of other programs.
func (e *Engine) Lockspaces(ctx context.Context) ([]string, error) {
	return e.host.Lockspaces(ctx)
}

// Open implements dlm.Engine. It waits for a device that udev is still creating.
func (e *Engine) Open(ctx context.Context, name string, sink dlm.Sink) (dlm.Lockspace, error) {
	return e.acquire(ctx, "open", name, sink, e.openDevice)
}

// Create implements dlm.Engine. While dlm_controld is still starting it tries again for some
// seconds.
func (e *Engine) Create(ctx context.Context, name string, sink dlm.Sink) (dlm.Lockspace, error) {
	return e.acquire(ctx, "create", name, sink, e.createDevice)
}

func (e *Engine) acquire(ctx context.Context, op, name string, sink dlm.Sink,
	get func(context.Context, string) (device, error)) (dlm.Lockspace, error) {
	if err := dlm.CheckLockspace(name); err != nil {
		return nil, err
	}
	d, err := within(ctx, func() (device, error) {
		if err := e.start(); err != nil {
			return nil, err
		}
		return get(ctx, name)
	}, func(d device) { d.close() })
	if err != nil {
		return nil, fail(op, name, err)
	}
	s, err := e.wrap(ctx, op, name, d, sink)
	if err != nil {
		go d.close()
		if known, ok := errors.AsType[*dlm.Error](err); ok && op == "create" {
			half := *known
			half.Unsettled = true // the node has joined
			err = &half
		}
		return nil, err
	}
	return s, nil
}

// wrap makes the handle for an open device.
func (e *Engine) wrap(ctx context.Context, op, name string, d device, sink dlm.Sink) (dlm.Lockspace, error) {
	info, err := e.host.Node(ctx)
	if err != nil {
		return nil, err
	}
	g := e.host.Recovery(name)
	s, err := e.add(op, name, info.ID, d, g, sink)
	if err != nil {
		g.Close()
		return nil, err
	}
	return s, nil
}

// start makes the library find the control device once.
func (e *Engine) start() error {
	e.starting.Lock()
	defer e.starting.Unlock()
	if e.started {
		return nil
	}
	if has, err := e.host.HasMisc("dlm-control"); err != nil {
		return &dlm.Error{Op: "start", Err: err, Advice: adviceMisc}
	} else if !has {
		return &dlm.Error{Op: "start", Err: dlm.ErrClusterUnavailable, Advice: adviceModule}
	}
	if err := e.library.start(); err != nil {
		return startError(err)
	}
	e.started = true
	return nil
}

func (e *Engine) openDevice(ctx context.Context, name string) (device, error) {
	until := time.Now().Add(deviceWait)
	for {
		d, err := e.library.open(name)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, syscall.ENOENT) {
			return nil, err
		}
		if has, misc := e.host.HasMisc("dlm_" + name); misc != nil {
			return nil, &dlm.Error{Op: "open", Lockspace: name, Err: misc, Advice: adviceMisc}
		} else if !has {
			return nil, err // the node is not in the lockspace
		}
		if time.Now().After(until) {
			return nil, &dlm.Error{Op: "open", Lockspace: name, Errno: syscall.ENOENT, Err: dlm.ErrClusterUnavailable,
				Advice: adviceDevice}
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

const (
	deviceWait = 5 * time.Second  // for udev to create a device
	daemonWait = 2 * time.Second  // for dlm_controld to answer queries
	joinWait   = 10 * time.Second // for dlm_controld to tell the kernel who this node is
)

func (e *Engine) createDevice(ctx context.Context, name string) (device, error) {
	began := time.Now()
	for {
		d, err := e.library.create(name)
		switch {
		case err == nil:
			return d, nil
		case errors.Is(err, syscall.ENOTCONN) && time.Since(began) > daemonWait && !e.host.DaemonRuns(ctx):
			// This is the kernel's answer before dlm_controld has ever run; later it is EUNATCH.
			return nil, &dlm.Error{Op: "create", Lockspace: name, Errno: syscall.ENOTCONN,
				Err: dlm.ErrClusterUnavailable, Advice: adviceDaemon}
		case errors.Is(err, syscall.ENOTCONN) && time.Since(began) < joinWait:
		case errors.Is(err, syscall.EEXIST):
			return nil, err
		case e.mayHave(name):
			// The node has joined; only the device was not found.
			return nil, &dlm.Error{Op: "create", Lockspace: name, Err: dlm.ErrClusterUnavailable, Advice: adviceDevice,
				Unsettled: true}
		default:
			return nil, err
		}
		if err := sleep(ctx, 250*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *Engine) add(op, name string, node uint32, d device, g gate, sink dlm.Sink) (*lockspace, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, &dlm.Error{Op: op, Lockspace: name, Err: dlm.ErrClosed}
	}
	e.watch()
	s := newLockspace(name, node, d, g, sink, e.log, e.drop)
	e.spaces[s] = struct{}{}
	e.log.Info("lockspace opened", "lockspace", name, "node", node)
	return s, nil
}

// drop forgets a handle that has ended.
func (e *Engine) drop(s *lockspace) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.spaces, s)
}

// watch starts to watch for lockspaces that another program makes this node leave.
func (e *Engine) watch() {
	if e.uevents != nil {
		return
	}
	u, err := openUevents()
	if err != nil {
		e.log.Warn("no device events: the service will not notice if another program makes this node leave a lockspace",
			"err",
			err)
		return
	}
	e.uevents = u
	go u.watch(e.removed, e.recheck)
}

// removed ends the handles of a lockspace that the node is leaving. If the device exists, the event
// is outdated: the node can't join a lockspace again before the last handle of the old one is
// closed.
func (e *Engine) removed(name string) {
	e.loseGone(slices.DeleteFunc(e.open(), func(s *lockspace) bool { return s.name != name }))
}

// recheck ends the handles of lockspaces whose device is gone.
func (e *Engine) recheck() { e.loseGone(e.open()) }

// loseGone ends those handles whose device is gone. If that can't be determined, perhaps because no
// file descriptor is left, they stay, and all are checked again later.
func (e *Engine) loseGone(in []*lockspace) {
	for _, s := range in {
		has, err := e.host.HasMisc("dlm_" + s.name)
		switch {
		case err != nil:
			e.recheckLater(s.name, err)
			return
		case !has:
			s.lose()
		}
	}
	e.blind.Store(false)
}

// recheckPause is the pause before devices that could not be looked at are checked again.
var recheckPause = time.Second

// recheckLater schedules another check, and logs once that the last one failed.
func (e *Engine) recheckLater(name string, err error) {
	if !e.blind.Swap(true) {
		e.log.Error(msgLeftUnknown.String(), "lockspace", name,
			"err", err)
	}
	if e.rechecking.Swap(true) {
		return
	}
	time.AfterFunc(recheckPause, func() {
		e.rechecking.Store(false)
		e.recheck()
	})
}

// mayHave reports whether the node may be in a lockspace. If that can't be determined, it may.
func (e *Engine) mayHave(name string) bool {
	has, err := e.host.HasMisc("dlm_" + name)
	return has || err != nil
}

// open returns the open handles of all lockspaces, by name.
func (e *Engine) open() []*lockspace {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*lockspace, 0, len(e.spaces))
	for s := range e.spaces {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *lockspace) int { return cmp.Compare(a.name, b.name) })
	return all
}

// Remove implements dlm.Engine. The kernel finishes only when every process has closed the device,
// so the handles of this engine end first. Other processes that use this package notice by
// themselves; a program that does not notice makes Remove wait.
func (e *Engine) Remove(ctx context.Context, name string) error {
	if err := dlm.CheckLockspace(name); err != nil {
		return err
	}
	_, err := within(ctx, func() (struct{}, error) {
		if err := e.start(); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, e.remove(name)
	}, nil)
	if errors.Is(err, context.DeadlineExceeded) && !e.mayHave(name) {
		return &dlm.Error{Op: "remove", Lockspace: name, Err: err, Advice: adviceInUse}
	}
	return fail("remove", name, err)
}

// maxUsers bounds how often Remove repeats the call: every dlm_create_lockspace counts as a user of
// the lockspace, and each release takes one away. Ours counts once, so the others are programs that
// have joined a lockspace of this node as well; the caller has checked whether one of them uses it
// (Users).
const maxUsers = 64

func (e *Engine) remove(name string) error {
	d, err := e.library.open(name)
	if err != nil {
		return err
	}
	for _, s := range e.open() {
		if s.name == name {
			s.lose()
			<-s.released
		}
	}
	for range maxUsers {
		if err := e.library.release(name, d); err != nil {
			return err
		}
		if has, err := e.host.HasMisc("dlm_" + name); err != nil {
			return &dlm.Error{Op: "remove", Lockspace: name, Err: err, Advice: adviceMisc}
		} else if !has {
			return nil
		}
		if d, err = e.library.open(name); err != nil {
			return err
		}
	}
	d.close()
	return syscall.EBUSY
}

// Close implements dlm.Engine.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	u := e.uevents
	e.uevents = nil
	e.mu.Unlock()
	if u != nil {
		u.close()
	}
	var all sync.WaitGroup
	for _, s := range e.open() {
		all.Go(func() { s.Close() })
	}
	all.Wait()
	return nil
}

// Queues implements dlm.Looker from debugfs.
func (e *Engine) Queues(ctx context.Context, lockspace, resource string) (dlm.Queues, error) {
	return e.host.Queues(ctx, lockspace, resource)
}

// QueuesOf implements dlm.Looker from debugfs.
func (e *Engine) QueuesOf(ctx context.Context, lockspace string, resources []string) ([]dlm.Queues, error) {
	return e.host.QueuesOf(ctx, lockspace, resources)
}

// Health implements dlm.Looker from sysfs, configfs and dlm_controld.
func (e *Engine) Health(ctx context.Context, lockspace string) (dlm.Health, error) {
	return e.host.Health(ctx, lockspace)
}

// Quorum implements dlm.QuorumLooker by asking dlm_controld.
func (e *Engine) Quorum(ctx context.Context) (bool, error) { return e.host.Quorum(ctx) }

// NodeNames implements dlm.NameLooker from corosync's configuration.
func (e *Engine) NodeNames(ctx context.Context) (map[uint32]string, error) {
	return e.host.NodeNames(ctx)
}

// Members implements dlm.MemberLooker from configfs.
func (e *Engine) Members(ctx context.Context) ([]uint32, error) { return e.host.ClusterMembers(ctx) }

// Orphans implements dlm.Looker from debugfs. Since 6.4, kernels don't show there whether a
// persistent lock is an orphan; see cluster.Host.Orphans for how that is found out.
func (e *Engine) Orphans(ctx context.Context, lockspace string) ([]dlm.Orphan, error) {
	held := make(map[dlm.LockID]bool)
	for _, s := range e.open() {
		if s.name == lockspace {
			s.lockIDs(held)
		}
	}
	return e.host.Orphans(ctx, lockspace, func(id dlm.LockID) bool { return held[id] })
}

// Users implements dlm.Looker from /proc and debugfs.
func (e *Engine) Users(ctx context.Context, lockspace string) ([]dlm.User, error) {
	held := make(map[dlm.LockID]bool)
	for _, s := range e.open() {
		if s.name == lockspace {
			s.lockIDs(held)
		}
	}
	return e.host.Users(ctx, lockspace, func(id dlm.LockID) bool { return held[id] })
}

// lockIDs adds the lockids of the handle's locks to ids.
func (s *lockspace) lockIDs(ids map[dlm.LockID]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.locks {
		ids[l.id] = true
	}
	for _, c := range s.scouts {
		ids[c.id] = true
	}
}
