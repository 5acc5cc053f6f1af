package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/dbus"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/onlost"
	"github.com/dlmlock/dlmlockd/polkit"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
	"github.com/dlmlock/dlmlockd/varlink"
	"github.com/dlmlock/dlmlockd/virtlockd"
)

// onStep is called before each step of the order of events. It is nil except in a build for crash
// tests.
var onStep func(step string)

const (
	// startTimeout bounds each question to the bus and the cluster at start.
	startTimeout = 10 * time.Second
	// answerTime is how long a stop waits for calls under way before the remaining ones get the
	// answer that the service is stopping.
	answerTime = time.Second
	// stopTimeout bounds the time for those answers.
	stopTimeout = 5 * time.Second
)

// daemon holds the parts of the service, in the order in which they are started.
type daemon struct {
	opts    options // those in force; only serveReloads changes them
	log     *slog.Logger
	control *logControl // the level and the target of log
	systemd notifier
	reloading
	recorded

	helpers map[string]api.HelperPolicy // of the start; a reload gives the service new ones
	core    *frontend.Core              // what the doors D-Bus and Varlink share
	bus     *dbus.Bus                   // nil: --bus=none
	server  busServer                   // the D-Bus door, or its stand-in
	watcher *process.Watcher            // of the processes that locks are tied to
	service *lockd.Service
	notices startupNotices  // between the service and core
	runner  *onlost.Runner  // of the helpers for lost locks
	libvirt *virtlockd.Door // nil: libvirt's own lock driver is not served

	varlink          *varlink.Door       // nil: Varlink is not served
	varlinkSockets   []*net.UnixListener // open from the start on, so that early clients wait in their queues
	varlinkActivated bool                // systemd listens, too: a call starts the service again

	store *fdStore   // nil: there is none, so nothing outlives the process
	kept  []*os.File // what an earlier process has put there, until the door has it
}

// reloading is what reading the configuration again takes.
type reloading struct {
	read     func() (options, error) // reads the command line and the file again
	hangups  <-chan os.Signal        // SIGHUP
	reloads  chan chan error         // asked for by a caller, who waits for the error
	settings *settings
}

// recorded is what openState finds: where the locks are, and what an earlier process has recorded of
// them.
type recorded struct {
	engine dlm.Engine
	// restored is closed when the engine has the recorded locks, if it could not keep them itself.
	restored chan struct{}
	gc       gcPace         // how often garbage is collected until the start has ended
	file     *state.File    // locked: no other daemon uses the directory
	found    state.Contents // the contents of the state file, until the service has them
	epoch    int64          // of the token clock, as it was saved in this boot
	node     dlm.NodeInfo
	quorum   api.Quorum
	bootID   string
}

// serve runs the service until ctx ends or nobody needs it (nil), or something fails for good. read
// reads the options again.
//
// What a start needs is opened in the order in which it can fail without a trace: the state directory,
// whose lock keeps a second daemon out, before anything is asked of the kernel; the sockets of the doors
// before the bus, so that clients who come early wait in their queues. Nothing is changed before live.
func serve(ctx context.Context, o options, read func() (options, error), control *logControl,
	log *slog.Logger) (err error) {
	d := &daemon{opts: o, log: log, control: control, systemd: notifier{log: log},
		reloading: reloading{read: read, reloads: make(chan chan error)}}
	var stop func()
	d.hangups, stop = hangups()
	defer stop()
	conf, mistakes, faults := resolve(o.Config)
	if len(mistakes) > 0 {
		return mistakes
	}
	tellFaults(log, faults)
	d.settings, d.helpers = newSettings(conf), conf.policies
	inherited := inheritDescriptors()
	if err := o.checkDoors(&inherited); err != nil { // before the state directory: the node's service may have it
		return err
	}
	if d.store, err = newFDStore(os.Getenv, log); err != nil {
		log.Warn("locks of Varlink connections end when the service is restarted", "err", err)
	}
	defer d.store.close()
	if err := d.openState(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.closeState()) }()
	// What follows is undone in the opposite order, wherever the start fails: the locks are given up
	// (closeState) only when nobody can call any more.
	if d.watcher, err = process.NewWatcher(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.watcher.Close()) }() // after the doors, which ask it
	d.watcher.LimitPerUser(o.Limits.Processes)
	// A door that opened before another failed is closed as well.
	defer func() { err = errors.Join(err, d.closeSockets()) }()
	if err := d.openSockets(&inherited); err != nil {
		return err
	}
	if err := d.connect(ctx); err != nil {
		return err
	}
	d.runner = onlost.New(onlost.Config{Helpers: commands(o.OnLost), Log: log})
	defer d.runner.Close()
	d.build()
	return d.live(ctx)
}

// openSockets listens for libvirt's lock driver and for Varlink, or takes over the sockets on which systemd
// listens. What is left of the inherited descriptors are those of an earlier process (kept), and such as
// nobody knows, which are closed.
func (d *daemon) openSockets(from *inherited) error {
	if err := d.openVirtlockd(from.take(virtlockdNames...)); err != nil {
		return err
	}
	if err := d.openVarlink(from.take(varlinkNames...)); err != nil {
		return err
	}
	from.closeRest(d.log)
	d.kept = from.kept
	return nil
}

// closeSockets may be called after a start that failed anywhere, and after live has closed the doors.
func (d *daemon) closeSockets() error {
	for _, l := range d.varlinkSockets {
		_ = l.Close()
	}
	return d.closeVirtlockd()
}

// openState makes the engine, locks the state directory and loads the state file. It asks the lock
// manager for nothing before the directory is locked.
func (d *daemon) openState(ctx context.Context) (err error) {
	if d.bootID, err = readBootID(); err != nil {
		return err
	}
	if d.engine, err = newEngine(d.opts.Engine, d.log); err != nil {
		return err
	}
	d.node = d.whoAmI(ctx)
	d.gc = hurryGC()
	d.file, d.found, err = state.Open(d.opts.StateDir, state.Options{
		Header: state.Header{BootID: d.bootID, NodeID: d.node.ID, Cluster: d.node.Cluster, Engine: d.engine.Name()},
		Log:    d.log,
	})
	d.gc.adopting()
	if err != nil {
		return errors.Join(err, d.engine.Close())
	}
	if d.epoch, err = d.file.Epoch(); err != nil {
		d.log.Error("the token clock can't be read, so fencing tokens rely on the wall clock", "err", err)
	}
	d.log.Info("state file read", "path", d.file.Path(), "locks", len(d.found.Locks), "lockspaces", len(d.found.Spaces))
	d.restored = make(chan struct{})
	// This runs beside the connecting to the bus and the sockets, because 100,000 locks take a while.
	// The service waits for it before it uses the engine (lockd.Order).
	go func(found state.Contents) {
		defer close(d.restored)
		restore(d.engine, found, d.bootID, d.file.Header().Instance, d.log)
	}(d.found)
	return nil
}

// closeState ends what openState began. The engine is closed first: its locks become orphans with
// that, and whoever gets the state directory next, which closing the file unlocks, adopts them.
func (d *daemon) closeState() error {
	<-d.restored
	return errors.Join(d.engine.Close(), d.file.Close())
}

// whoAmI asks the engine for this node. Without a cluster the service starts nevertheless, says so
// to every caller, and asks again.
func (d *daemon) whoAmI(ctx context.Context) dlm.NodeInfo {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	node, err := d.engine.Node(ctx)
	if err != nil {
		d.log.Warn("this node is not known yet", "err", err)
	}
	d.quorum = lockd.AskQuorum(ctx, d.engine)
	return node
}

// connect connects to the bus, whose id the service needs, and makes the server, which does not
// answer calls yet.
func (d *daemon) connect(ctx context.Context) (err error) {
	if d.opts.Bus == noBus {
		d.log.Warn("there is no message bus: nobody can call over D-Bus, and polkit can't be asked; " +
			"root and the configured group alone may change locks")
		d.core = frontend.New(frontend.Config{Authorizer: d.settings, Log: d.log})
		d.server = withoutBus{d.core}
		d.buildVarlink()
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if d.bus, err = dbus.Connect(ctx, d.opts.Bus); err != nil {
		return err
	}
	auth := polkit.New(polkit.Config{Conn: d.bus.Conn(), Fallback: d.settings, Log: d.log})
	d.core = frontend.New(frontend.Config{Authorizer: auth, Log: d.log})
	d.server = dbus.New(dbus.Config{
		Core: d.core, Bus: d.bus, Log: d.log, LogControl: d.control, StateFile: d.file.Path(),
		Version: thisBuild().Version, Commit: thisBuild().Commit, BuildDate: thisBuild().Date,
	})
	d.buildVarlink()
	return nil
}

// sessions are the name spaces of sessions that may be alive. Without a bus it can't
// be told which connections to it are: what hangs on them stays.
func (d *daemon) sessions() []api.Session {
	spaces := []api.Session{"dbus:"}
	if d.bus != nil {
		spaces[0] = d.bus.Sessions()
	}
	if d.varlink != nil {
		spaces = append(spaces, d.varlink.Sessions())
	}
	return spaces
}

// serviceConfig returns what a service needs to take back the recorded locks, whether or not it
// will serve callers.
func (d *daemon) serviceConfig() lockd.Config {
	return lockd.Config{
		Engine: d.engine, Order: lockd.Order{EngineReady: d.restored}, Journal: d.file, Contents: d.found, BootID: d.bootID,
		Instance: d.file.Header().Instance,
		Node:     d.node, Quorum: d.quorum, RawValues: d.opts.RawValueLockspaces, OpTimeout: d.opts.OpTimeout,
		Processes: d.watcher, Log: d.log,
		TokenClock: lockd.TokenClock{Clock: clocks, TokenEpoch: d.epoch, NoteEpoch: d.file.NoteEpoch},
	}
}

// build makes the service. It reads the records of found but does not act on them before live
// has it run. The doors are there already, because the service needs to know which sessions may
// be alive (sessions): it releases the locks of all others.
func (d *daemon) build() {
	d.notices.to = d.core.Notify
	c := d.serviceConfig()
	c.Sessions = d.sessions()
	if d.varlink != nil {
		c.Kept = d.varlink.Kept()
	}
	c.Lockspaces, c.Limits = d.lockspaces(d.opts), limits(d.opts.Limits)
	c.Notify, c.OnStep = d.notices.notify, onStep
	c.OnLost = lockd.OnLost{Helpers: d.helpers, RunLost: d.runner.Run}
	d.service = lockd.New(c)
	d.buildPeers()
	d.found = state.Contents{} // the service has the contents now
}

// live runs the service: activation, the bus name, READY, and at the end the same backwards.
//
// The end: the doors stop taking calls, and the service goes on for answerTime so that calls under
// way get their real answers. Then stopService answers the rest with ShuttingDown, the doors write
// these answers and close, and the service ends. Persistent locks are left as they are throughout;
// nothing is written about them, since the records say all of it.
func (d *daemon) live(ctx context.Context) error {
	// Not ctx: the service outlives it by the time that the answers take.
	serviceCtx, stopService := context.WithCancel(context.Background())
	defer stopService()
	ended := make(chan error, 1)
	go func() { ended <- d.service.Run(serviceCtx) }()

	shutdown := d.server.Shutdown
	err := d.open(ctx)
	if err == nil {
		var idle bool
		if idle, err = d.wait(ctx, ended); idle {
			shutdown = d.server.ShutdownIdle
		}
	}
	d.systemd.tell("STOPPING=1\nSTATUS=stopping; locks stay")
	// All doors close side by side, so that one with slow clients takes no time from the others.
	timer := time.AfterFunc(answerTime, stopService)
	defer timer.Stop()
	stopCtx, cancel := context.WithTimeout(context.Background(), answerTime+stopTimeout)
	defer cancel()
	libvirt := make(chan error, 1)
	go func() { libvirt <- d.closeVirtlockd() }()
	varlinkClosed := make(chan struct{})
	go func() { defer close(varlinkClosed); d.closeVarlink(stopCtx) }()
	if e := shutdown(stopCtx); e != nil {
		d.log.Warn("the bus connection did not end in order", "err", e)
	}
	<-varlinkClosed
	d.core.Close()
	stopService()
	return errors.Join(err, <-ended, <-libvirt)
}

// open waits for activation and then admits callers. It returns no error if ctx ends: a service
// that is stopped while it starts has not failed.
//
// The bus name comes after everything that a caller could ask for: the bus keeps the messages of
// callers who have started the service until then. READY comes last, as units ordered after this
// one call at once.
func (d *daemon) open(ctx context.Context) error {
	d.systemd.tell("STATUS=adopting the locks of the state file")
	select {
	case <-d.service.Ready():
	case <-ctx.Done():
		return nil
	case <-d.server.Done():
		return errBusGone
	}
	d.notices.admit()
	if d.libvirt != nil {
		d.libvirt.Start(d.service)
	}
	startCtx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	d.core.Start(d.service)
	err := d.server.Start(startCtx)
	if err == nil {
		err = d.server.RequestName()
	}
	if ctx.Err() != nil {
		return nil // it may have failed because ctx has ended
	}
	if err != nil {
		return err
	}
	d.serveVarlink()
	d.notices.open()
	d.systemd.tell("READY=1\n" + statusLine(d.service.Status()))
	d.gc.end()
	d.log.Info(msgReady.String(), "engine", d.engine.Name(), "locks", d.service.Status().Locks)
	return nil
}

var errBusGone = errors.New("the connection to the message bus is gone; locks stay, and a restart serves them again")

// healthy reports whether nothing hangs that should never stand still for as long as limit: the
// owner, the journal, the bus reader and the send queue. What may wait for others by right (an
// authorisation, a join, a client that does not read) is not among them.
func (d *daemon) healthy(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return errors.Join(d.service.Healthy(ctx), d.server.Healthy(limit))
}

// wait watches the running service until it has to end. It returns idle if that is because nobody
// needs it.
func (d *daemon) wait(ctx context.Context, ended <-chan error) (idle bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	unneeded := make(chan struct{})
	work.Go(func() { d.systemd.keep(ctx, d.service, d.healthy) })
	work.Go(func() { d.watchIdle(ctx, unneeded) })
	work.Go(func() { d.writeMetrics(ctx, d.settings.metricsChanged) })
	work.Go(func() { d.serveReloads(ctx) })
	work.Go(func() { d.runPeers(ctx) })
	// The deferred calls above end these goroutines and wait for them: none uses the service, or
	// reports to systemd, while live stops the service.
	select {
	case <-ctx.Done():
		return false, nil
	case <-unneeded:
		return true, nil
	case <-d.server.Done():
		return false, errBusGone
	case err := <-ended:
		return false, errors.Join(errors.New("the service ended by itself"), err)
	}
}

// readBootID returns the id of this boot of the kernel; locks of another boot are gone.
func readBootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("tell this boot from the last one: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// limits overrides the service's limits with those of the file.
func limits(c config.Limits) api.Limits {
	l := api.DefaultLimits()
	for _, s := range []struct {
		to   *int
		from int
	}{
		{&l.LocksPerUID, c.LocksPerUID},
		{&l.WaitingPerUID, c.WaitingPerUID},
		{&l.BatchLocks, c.LocksPerCall},
		{&l.OwnerBytes, c.OwnerBytes},
		{&l.LabelBytes, c.LabelBytes},
		{&l.PageSize, c.PageSize},
	} {
		if s.from > 0 {
			*s.to = s.from
		}
	}
	return l
}
