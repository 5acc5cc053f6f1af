package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/internal/story"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// node is one simulated machine: what outlives the daemon.
type node struct {
	t       *testing.T
	id      int
	cluster *local.Cluster
	sim     *local.Node
	power
	dir    string // of the state file
	saved  []byte // the state file that was put aside
	disk   disk
	procs  *processes
	holder *local.Engine // a process of another program that has a lock
	log    logBuffer
	clock  atomic.Int64 // how far the wall clock was moved, as a Duration

	lockspaces, raw []string
	limits          api.Limits

	mu     sync.Mutex // guards what jobs and the daemon use as well
	daemon *daemon    // nil: none runs
	messageBus
	requests map[string]api.Ref // of jobs with wait=forever
}

// messageBus stands in for the message bus of a node.
type messageBus struct {
	bus    int // which one it is: each start of a bus has another number
	dialed int // connections that were made to it
	listen []*listener
}

// power is whether a node runs, and since when.
type power struct {
	up     bool
	boots  int
	booted time.Time
}

// daemon is one process of the service.
type daemon struct {
	*lockd.Service
	engine *local.Engine
	file   *state.File
	cancel context.CancelFunc
	killed chan struct{}
	ended  chan struct{}
}

func newNode(t *testing.T, sim *local.Cluster, id int) *node {
	return &node{t: t, id: id, cluster: sim, sim: sim.AddNode(uint32(id)), power: power{up: true, booted: time.Now()},
		dir:   filepath.Join(t.TempDir(), "state"),
		procs: newProcesses(), lockspaces: []string{"vms"}, raw: []string{"raw"}, limits: api.DefaultLimits(),
		requests: map[string]api.Ref{}}
}

// The daemons look at their lockspaces one after the other, so that what they
// find comes in one order.
func (n *node) healthInterval() time.Duration {
	return time.Second + time.Duration(n.id)*time.Millisecond
}

func (n *node) bootID() string { return fmt.Sprintf("boot-%d", n.boots) }

func (n *node) openState(dir string) (*state.File, state.Contents, error) {
	return state.Open(dir, state.Options{Header: n.header(), Log: slog.New(n.log.handler())})
}

func (n *node) header() state.Header {
	return state.Header{BootID: n.bootID(), NodeID: uint32(n.id), Cluster: "test", Engine: "local"}
}

// start starts a daemon and waits until it is ready.
func (n *node) start(ctx context.Context) error {
	if n.current() != nil {
		return errors.New("the daemon runs already")
	}
	file, contents, err := n.openState(n.dir)
	if err != nil {
		return err
	}
	d := &daemon{engine: n.sim.Engine(), file: file, killed: make(chan struct{}), ended: make(chan struct{})}
	config, err := n.config(ctx, d)
	if err != nil {
		return errors.Join(err, file.Close())
	}
	config.Contents = contents
	d.Service = lockd.New(config)
	run, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	go func() {
		defer close(d.ended)
		_ = d.Run(run)
	}()
	n.setDaemon(d)
	select {
	case <-d.Ready():
		return nil
	case <-ctx.Done():
		return errors.New("the daemon does not become ready")
	}
}

// config is what a daemon is made of, but for the contents of the state file.
func (n *node) config(ctx context.Context, d *daemon) (lockd.Config, error) {
	info, err := d.engine.Node(ctx)
	if err != nil {
		return lockd.Config{}, err
	}
	epoch, err := d.file.Epoch()
	booted := n.booted
	return lockd.Config{
		Engine: d.engine, Journal: &journal{File: d.file, disk: &n.disk, killed: d.killed}, BootID: n.bootID(),
		Instance: d.file.Header().Instance, Node: info, Sessions: []api.Session{n.session("")},
		Lockspaces: n.lockspaces, RawValues: n.raw, Limits: n.limits, OpTimeout: opTime,
		HealthInterval: n.healthInterval(), Processes: n.procs, Notify: n.notify, Log: slog.New(n.log.handler()),
		TokenClock: lockd.TokenClock{TokenEpoch: epoch, NoteEpoch: d.file.NoteEpoch,
			Clock: func() (time.Time, time.Duration) {
				return time.Now().Add(time.Duration(n.clock.Load())), time.Since(booted)
			}},
	}, err
}

// opTime is op-timeout in the configuration of the daemons, as on the nodes of the lab.
const opTime = 6 * time.Second

// session is the session of a connection to the node's bus.
func (n *node) session(name string) api.Session {
	return api.MakeSession("dbus", fmt.Sprintf("bus%d", n.bus), name)
}

// stop ends the daemon in order.
func (d *daemon) stop() {
	d.cancel()
	<-d.ended
	_ = d.file.Close()
}

// kill ends the daemon as SIGKILL does: nothing more is written, nothing more is
// asked of the lock manager, and its handles go.
func (d *daemon) kill() {
	close(d.killed)
	d.engine.Kill()
	d.stop()
}

func (n *node) endDaemon(end func(*daemon)) error {
	d := n.current()
	if d == nil {
		return errors.New("no daemon runs")
	}
	n.setDaemon(nil)
	defer n.procs.forget()
	end(d)
	return nil
}

// machine carries out commands about the node itself.
func (n *node) machine(_ context.Context, cmd *story.Command, out *story.Output) error {
	switch cmd.Verb {
	case "crash":
		return n.crash()
	case "boot":
		return n.boot()
	case "off":
		if n.up {
			return errUp
		}
		out.Say("is off")
	case "set-clock":
		d, err := time.ParseDuration(cmd.Arg(0))
		n.clock.Add(int64(d))
		return err
	case "disk":
		return n.disk.set(cmd.Arg(0))
	case "next-bus":
		n.mu.Lock()
		defer n.mu.Unlock()
		n.bus++
		n.dialed = 0 // names begin anew there
	default:
		return n.procs.do(cmd, out)
	}
	return nil
}

var errUp = errors.New("the node is up")

// crash takes the power from the node. What is in memory goes: the daemon, its locks in the
// lock manager, and the state file, which is on a tmpfs.
func (n *node) crash() error {
	if n.current() != nil {
		_ = n.endDaemon((*daemon).kill)
	}
	n.sim.Crash()
	n.up = false
	return os.RemoveAll(n.dir)
}

// boot makes a node of the same id that has a boot id of its own and knows nothing.
func (n *node) boot() error {
	if n.up {
		return errUp
	}
	n.sim, n.up = n.cluster.AddNode(uint32(n.id)), true
	n.boots++
	n.booted = time.Now()
	n.log.reset()
	return nil
}

func number(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32)
	return uint32(n)
}

// daemonDo carries out commands about the daemon and its files.
func (n *node) daemonDo(ctx context.Context, cmd *story.Command, out *story.Output) (err error) {
	file := filepath.Join(n.dir, "state.toml")
	switch cmd.Verb {
	case "configure":
		n.configure(cmd)
	case "start-daemon":
		return n.start(ctx)
	case "stop-daemon":
		return n.endDaemon((*daemon).stop)
	case "kill-daemon":
		return n.endDaemon((*daemon).kill)
	case "log":
		out.Line("%s", n.log.text())
	case "state":
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			out.Say("no state file")
			return nil
		} else if err != nil {
			return err
		}
		return out.State(n.t.TempDir(), text, n.header())
	case "save-state":
		n.saved, err = os.ReadFile(file)
		return err
	case "put-state":
		if err := os.MkdirAll(n.dir, 0o700); err != nil {
			return err
		}
		return os.WriteFile(file, n.saved, 0o600)
	case "lose-state":
		return os.RemoveAll(n.dir)
	case "reload":
		n.limits.LocksPerUID = orElse(cmd.Options["locks-per-uid"], n.limits.LocksPerUID)
		n.current().Reconfigure(lockd.Settings{Limits: n.limits, Lockspaces: cmd.Args, OpTimeout: opTime})
	default:
		return errOther
	}
	return nil
}

func (n *node) configure(cmd *story.Command) {
	if text, ok := cmd.Options["lockspaces"]; ok {
		n.lockspaces = strings.Split(text, ",")
	}
	if text, ok := cmd.Options["raw"]; ok {
		n.raw = strings.Split(text, ",")
	}
	n.limits.LocksPerUID = orElse(cmd.Options["locks-per-uid"], n.limits.LocksPerUID)
	n.limits.WaitingPerUID = orElse(cmd.Options["waiting-per-uid"], n.limits.WaitingPerUID)
}

func orElse(text string, or int) int {
	if text == "" {
		return or
	}
	return int(number(text))
}

// disk is the file system of the state file.
type disk struct {
	mu   sync.Mutex
	fail syscall.Errno
}

func (d *disk) set(how string) error {
	fail, ok := map[string]syscall.Errno{"full": syscall.ENOSPC, "broken": syscall.EIO, "ok": 0}[how]
	if !ok {
		return fmt.Errorf("%q: expected full, broken or ok", how)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail = fail
	return nil
}

func (d *disk) failure() syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fail
}

// journal is the state file of a daemon, which can be made to fail. On a full disk
// what brings a lock to its end is written all the same: it has its room.
type journal struct {
	*state.File
	disk   *disk
	killed <-chan struct{}
}

// Append implements lockd.Journal.
func (j *journal) Append(changes []state.Change) error {
	select {
	case <-j.killed:
		return syscall.EIO
	default:
	}
	if fail := j.disk.failure(); fail != 0 && (fail != syscall.ENOSPC || takesOn(changes)) {
		return fail
	}
	return j.File.Append(changes)
}

// takesOn reports whether changes take on a lock or a lockspace.
func takesOn(changes []state.Change) bool {
	for _, c := range changes {
		switch c := c.(type) {
		case state.Lock:
			if c.Phase != state.Lost {
				return true
			}
		case state.Lockspace:
			if c.Phase == state.Creating {
				return true
			}
		}
	}
	return false
}

// Health implements lockd.Journal.
func (j *journal) Health() error {
	if fail := j.disk.failure(); fail != 0 {
		return fail
	}
	return j.File.Health()
}

// logBuffer is what the daemons of a node have logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(text)
}

func (l *logBuffer) handler() slog.Handler { return slog.NewTextHandler(l, nil) }

func (l *logBuffer) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logBuffer) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf.Reset()
}
