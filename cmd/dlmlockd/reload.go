package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// settings are those that can change while the service runs and that no other part holds.
type settings struct {
	group   atomic.Pointer[api.GroupAuthorizer]
	idle    atomic.Int64           // time.Duration; see config.Config.ExitOnIdle
	metrics atomic.Pointer[string] // see config.Config.MetricsFile

	idleChanged, metricsChanged chan struct{} // one slot each: what counts is the last change
}

func newSettings(c resolved) *settings {
	s := &settings{idleChanged: make(chan struct{}, 1), metricsChanged: make(chan struct{}, 1)}
	s.take(c)
	return s
}

// take takes over a configuration.
func (s *settings) take(c resolved) {
	s.group.Store(&c.authorizer)
	s.idle.Store(int64(c.ExitOnIdle))
	s.metrics.Store(&c.MetricsFile)
	for _, changed := range []chan struct{}{s.idleChanged, s.metricsChanged} {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

func (s *settings) metricsFile() string { return *s.metrics.Load() }

func (s *settings) exitOnIdle() time.Duration { return time.Duration(s.idle.Load()) }

// Authorize implements api.Authorizer with the group that is configured at the moment.
func (s *settings) Authorize(ctx context.Context, subject api.Subject, a api.Action, details map[string]string) error {
	return s.group.Load().Authorize(ctx, subject, a, details)
}

// serveReloads reads the configuration again for each SIGHUP and each caller who asks for it, one
// after the other, until ctx ends. Reading it may wait for a directory service (groups), which is
// why it has a goroutine of its own.
func (d *daemon) serveReloads(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.hangups:
			_ = d.reload(ctx)
		case done := <-d.reloads:
			done <- d.reload(ctx)
		}
	}
}

// reloadTimeout is how long a caller waits, for its turn and for the reload together. A directory service
// that is asked for a group may not answer.
const reloadTimeout = 10 * time.Second

// askReload has the configuration read again. The error says what is wrong with it, or it is an
// *api.Error: the configuration was not read in time.
func (d *daemon) askReload() error {
	late := func(text string) error {
		return &api.Error{Op: "reload", Kind: api.Timeout, Mode: dlm.None, Text: text}
	}
	done, timeout := make(chan error, 1), time.After(reloadTimeout)
	select {
	case d.reloads <- done:
	case <-timeout:
		return late("the service is about to end, or busy with another reload; try again later")
	}
	select {
	case err := <-done:
		return err
	case <-timeout:
		return late("it is not done yet and goes on; the log says how it ends")
	}
}

// hangups returns the SIGHUPs from now on; one that comes before the service is ready waits.
func hangups() (c chan os.Signal, stop func()) {
	c = make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGHUP)
	return c, func() { signal.Stop(c) }
}

// reread is what reading the configuration again has found.
type reread struct {
	opts   options
	conf   resolved
	faults config.Errors
	err    error // the mistakes, or why nothing was read
}

// readAgain reads the configuration again. It is false if ctx ends before that is done: a directory
// service that does not answer must not keep the service from ending.
func (d *daemon) readAgain(ctx context.Context) (r reread, ok bool) {
	found := make(chan reread, 1)
	go func() {
		o, err := d.read()
		conf, mistakes, faults := resolve(o.Config)
		found <- reread{o, conf, faults, allMistakes(err, mistakes)}
	}()
	select {
	case r := <-found:
		return r, true
	case <-ctx.Done():
		return reread{}, false
	}
}

// reload reads the configuration again and takes over what can change while locks are held. It
// tells systemd when it begins and when it is done.
func (d *daemon) reload(ctx context.Context) error {
	d.systemd.tell(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", monotonic().Microseconds()))
	defer d.systemd.tell("READY=1")
	r, ok := d.readAgain(ctx)
	if !ok {
		return &api.Error{Op: "reload", Kind: api.ShuttingDown, Mode: dlm.None,
			Text: "the service is about to end; it reads the configuration when it starts again"}
	}
	// All or nothing: half of a configuration with a mistake could be worse than the old one.
	if r.err != nil {
		d.log.Error(msgConfigurationWrong.String(), "err", r.err)
		return r.err
	}
	o, conf := r.opts, r.conf
	d.settings.take(conf)
	d.control.level.Set(o.LogLevel)
	d.service.Reconfigure(lockd.Settings{Limits: limits(o.Limits), OpTimeout: o.OpTimeout, Lockspaces: d.lockspaces(o),
		Helpers: conf.policies})
	d.watcher.LimitPerUser(o.Limits.Processes)
	d.runner.Configure(commands(o.OnLost))
	d.log.Info("configuration read again", "options", o)
	tellFaults(d.log, r.faults)
	if fixed := needRestart(d.opts, o); len(fixed) > 0 {
		d.log.Warn("some of it takes effect when the service is restarted, which loses no lock", "keys",
			strings.Join(fixed, ", "))
	}
	if d.libvirt != nil {
		d.libvirt.Configure(virtlockdSettings(o.Config))
	}
	if left := missing(d.lockspaces(d.opts), d.lockspaces(o)); len(left) > 0 {
		d.log.Info("lockspaces that are not in the configuration any more stay joined; dlmlockctl leave leaves them",
			"lockspaces", left)
	}
	engine, raw, socket := d.opts.Engine, d.opts.RawValueLockspaces, d.opts.Virtlockd.Socket
	all := d.opts.AllNodes
	d.opts = o
	// those in force, so the next reload reports them again
	d.opts.Engine, d.opts.RawValueLockspaces = engine, raw
	d.opts.Virtlockd.Socket, d.opts.AllNodes = socket, all
	return nil
}

// needRestart returns the keys that differ and can't change now.
func needRestart(before, after options) (keys []string) {
	if before.Engine != after.Engine {
		keys = append(keys, "engine")
	}
	if before.AllNodes != after.AllNodes {
		keys = append(keys, "all-nodes")
	}
	if !slices.Equal(before.RawValueLockspaces, after.RawValueLockspaces) {
		keys = append(keys, "raw-value-lockspaces")
	}
	if before.Virtlockd.Socket != after.Virtlockd.Socket {
		keys = append(keys, "virtlockd.socket")
	}
	return keys
}

// missing returns the elements of before that are not in after.
func missing(before, after []string) []string {
	return slices.DeleteFunc(slices.Clone(before), func(s string) bool { return slices.Contains(after, s) })
}

// monotonic returns the clock that systemd compares with its own (sd_notify(3), MONOTONIC_USEC=).
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		slog.Warn("no monotonic clock", "err", err)
	}
	return time.Duration(ts.Nano())
}
