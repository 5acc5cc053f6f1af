package main

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// leaving runs dlmlockd --leave on a state directory, with a systemctl that says that the host is
// going down, or that it is not.
func leaving(t *testing.T, dir, systemState string) *running {
	t.Helper()
	bin := t.TempDir()
	script := "#!/bin/sh\necho " + systemState + "\n[ " + systemState + " = running ]\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "systemctl"), []byte(script), 0o755))
	return launch(t, program(t), "unix:path=/nonexistent", dir, []string{"PATH=" + bin + ":" + os.Getenv("PATH")},
		"--leave")
}

func TestLeave(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	c := newClient(bus.Dial(t))
	p := start(t, bus, dir)
	require.NoError(t, c.join("vms"))
	require.NoError(t, c.join("backup"))
	_, err := c.acquire("vms", "disk1", "EX", "owner", "web")
	require.NoError(t, err)

	q := leaving(t, dir, "stopping")
	require.Equal(t, exitFailed, q.wait(t), "not while the service runs")
	require.Contains(t, q.log(), "the state directory is in use")
	require.Equal(t, exitOK, p.stop(t))

	q = leaving(t, dir, "running")
	require.Equal(t, exitFailed, q.wait(t), "not while locks are held")
	require.Contains(t, q.log(), "locks are held in vms")

	p = start(t, bus, dir)
	require.Len(t, c.list(t), 1, "nothing was lost by that")
	require.NoError(t, c.release("vms", "disk1", "owner", "web"))
	require.Equal(t, exitOK, p.stop(t))
	require.Equal(t, exitOK, leaving(t, dir, "running").wait(t))
	require.Empty(t, recordedSpaces(t, dir))
}

func TestLeaveWhenTheHostGoesDown(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	c := newClient(bus.Dial(t))
	p := start(t, bus, dir)
	require.NoError(t, c.join("vms"))
	_, err := c.acquire("vms", "disk1", "EX", "owner", "web")
	require.NoError(t, err)
	user := exec.Command("sleep", "1000")
	require.NoError(t, user.Start())
	_, err = c.acquire("vms", "disk2", "EX", "lifetime", "process", "pid", uint32(user.Process.Pid))
	require.NoError(t, err)
	require.Equal(t, exitOK, p.stop(t))

	q := leaving(t, dir, "stopping")
	q.await(t, "adoption", func(_ []string, log string) bool { return len(log) > 0 })
	require.NotEmpty(t, recordedSpaces(t, dir), "the process may still write")
	require.NoError(t, user.Process.Kill())
	_ = user.Wait()
	require.Equal(t, exitOK, q.wait(t), "what held it back has ended")
	require.Empty(t, recordedSpaces(t, dir))
	require.Contains(t, q.log(), "lock lost", "said aloud")
}

// recordedSpaces are the lockspaces that the state file of a dead daemon knows.
func recordedSpaces(t *testing.T, dir string) []state.Lockspace {
	t.Helper()
	return readDead(t, dir).Spaces
}

// A process that does not end keeps its lockspace, and the others are left.
func TestLeaveKeepsWhatAProcessUses(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	d := &daemon{opts: options{StateDir: dir}, log: log}
	d.opts.Engine = "local"
	require.NoError(t, d.openState(ctx))
	defer func() { require.NoError(t, d.file.Close()) }()
	watcher, err := process.NewWatcher()
	require.NoError(t, err)
	defer func() { require.NoError(t, watcher.Close()) }()
	service := lockd.New(lockd.Config{
		Engine: d.engine, Order: lockd.Order{EngineReady: d.restored}, Journal: d.file, Contents: d.found, BootID: d.bootID,
		Instance: d.file.Header().Instance, Processes: watcher, Lockspaces: []string{"vms", "backup"}, Log: log,
	})
	run, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(run) }()
	defer func() {
		stop()
		require.NoError(t, <-ended)
	}()
	<-service.Ready()
	_, err = ask(ctx, func(done func([]api.Grant, error)) {
		service.Acquire(api.Caller{PID: uint32(os.Getpid())},
			[]api.Want{{Lockspace: "vms", Resource: "disk1", Mode: dlm.EX}},
			api.AcquireOptions{Lifetime: state.Process, PID: uint32(os.Getpid())}, done)
	})
	require.NoError(t, err)

	short, cancel := context.WithTimeout(ctx, 3*userPoll)
	defer cancel()
	used, err := awaitUsers(short, service)
	require.NoError(t, err)
	require.Equal(t, map[string]uint32{"vms": uint32(os.Getpid())}, used)
	err = leaveUnused(ctx, service, used, nil, log)
	require.ErrorContains(t, err, "the lockspace vms is not left: process")
	spaces, err := ask(ctx, service.Lockspaces)
	require.NoError(t, err)
	require.Len(t, spaces, 1)
	require.Equal(t, "vms", spaces[0].Name)
	require.Equal(t, 1, spaces[0].Locks)
}

// A leave must treat the locks as the service does: it may release some of them, which writes their
// value blocks.
func TestLeaveKnowsRawLockspaces(t *testing.T) {
	d := &daemon{opts: options{StateDir: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
	d.opts.Engine, d.opts.RawValueLockspaces = "local", []string{"raw"}
	require.NoError(t, d.openState(t.Context()))
	defer func() { require.NoError(t, d.file.Close()) }()
	require.Equal(t, []string{"raw"}, d.serviceConfig().RawValues)
}

func TestLeaveWaitsForHelpers(t *testing.T) {
	d := &daemon{recorded: recorded{found: state.Contents{Locks: []state.Lock{{Phase: state.Held}}}}}
	require.False(t, d.helpersDue())
	d.found.Locks = append(d.found.Locks, state.Lock{Phase: state.Lost, OnLost: "libvirt"})
	require.True(t, d.helpersDue())
}
