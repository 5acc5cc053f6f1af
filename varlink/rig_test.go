package varlink

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must come.
const patience = time.Minute

// rig is the real service over the embedded engine and a real state file, with a
// Door on a socket.
type rig struct {
	t       testing.TB
	dir     string // of the state file
	path    string // of the socket
	cluster *local.Cluster
	node    *local.Node
	service *lockd.Service
	core    *frontend.Core
	door    *Door
	logs    *logBook
	level   level
	stop    func()
}

type rigConfig struct {
	auth   api.Authorizer
	raw    []string
	limits api.Limits
	now    func() time.Time // by which users get credit; nil: time.Now
	after  *rig             // a service that has ended, on whose node and directory this one starts
}

const membersGID = 4242

// level is a log level.
type level struct {
	mu sync.Mutex
	n  int
}

func (l *level) SyslogLevel() int { l.mu.Lock(); defer l.mu.Unlock(); return l.n }

func (l *level) SetSyslogLevel(n int) error {
	if n < 0 || n > 7 {
		return errors.New("no level")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n = n
	return nil
}

func newRig(t testing.TB, cfg rigConfig) *rig {
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "varlink"), logs: &logBook{}}
	if cfg.after != nil {
		r.dir, r.cluster, r.node = cfg.after.dir, cfg.after.cluster, cfg.after.node
	} else {
		r.dir, r.cluster = t.TempDir(), local.NewCluster("test")
		r.node = r.cluster.AddNode(1)
	}
	log := slog.New(slog.NewTextHandler(r.logs, nil))
	header := state.Header{BootID: "boot", NodeID: 1, Engine: "local"}
	file, contents, err := state.Open(r.dir, state.Options{Header: header, Log: log})
	require.NoError(t, err)
	watcher, err := process.NewWatcher()
	require.NoError(t, err)
	if cfg.auth == nil {
		cfg.auth = api.GroupAuthorizer{GID: membersGID, HasGroup: true, Group: "members"}
	}
	r.core = frontend.New(frontend.Config{Authorizer: cfg.auth, Log: log, Now: cfg.now})
	noReload := func() error { return errors.New("line 7: no") }
	r.door = New(Config{Core: r.core, Log: log, LogLevel: &r.level, Reload: noReload,
		Version: "1.2.3", Commit: "0123abc", BuildDate: "2026-01-02T03:04:05Z", StateFile: file.Path()})
	engine := r.node.Engine()
	r.service = lockd.New(lockd.Config{
		Engine: engine, Journal: file, Contents: contents, BootID: header.BootID, Processes: watcher,
		Node: dlm.NodeInfo{ID: 1, Name: "node1", Cluster: "test"}, Sessions: []api.Session{r.door.Sessions()},
		Lockspaces: []string{"vms"}, RawValues: cfg.raw, Limits: cfg.limits, Notify: r.core.Notify, Log: log,
		HealthInterval: 50 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.service.Run(ctx) }()
	<-r.service.Ready()
	r.core.Start(r.service)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.path, Net: "unix"})
	require.NoError(t, err)
	require.NoError(t, os.Chmod(r.path, 0o666))
	served := make(chan error, 1)
	go func() { served <- r.door.Serve(l) }()
	r.stop = sync.OnceFunc(func() {
		end, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		done := make(chan error)
		go func() { done <- r.door.Shutdown(end) }()
		require.NoError(t, r.core.Shutdown(end, nil))
		require.NoError(t, <-done)
		require.NoError(t, <-served)
		r.core.Close()
		cancel()
		require.NoError(t, <-ended)
		require.NoError(t, watcher.Close())
		require.NoError(t, file.Close())
	})
	t.Cleanup(func() {
		r.stop()
		if t.Failed() && os.Getenv("TEST_LOGS") != "" {
			t.Log(r.logs.String())
		}
	})
	return r
}

// logBook keeps the log.
type logBook struct {
	mu   sync.Mutex
	text []byte
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// client calls the service.
type client struct {
	*net.UnixConn
	t testing.TB
	r *bufio.Reader
}

func (r *rig) dial() *client {
	r.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: r.path, Net: "unix"})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = c.Close() })
	return &client{c, r.t, bufio.NewReader(c)}
}

// answer is a reply.
type answer struct {
	Parameters map[string]any
	Continues  bool
	Error      string
}

// send sends a call of our interface, or of another one if there is a dot in its
// name. flag is "", "more" or "oneway". parameters are JSON.
func (c *client) send(method, parameters, flag string) {
	c.t.Helper()
	if filepath.Ext(method) == "" {
		method = Interface + "." + method
	}
	text := `{"method":"` + method + `"`
	if parameters != "" {
		text += `,"parameters":` + parameters
	}
	if flag != "" {
		text += `,"` + flag + `":true`
	}
	_, err := c.Write([]byte(text + "}\x00"))
	require.NoError(c.t, err)
}

// receive takes a reply; the zero value at the end of the connection.
func (c *client) receive() (a answer) {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(patience)))
	text, err := c.r.ReadBytes(0)
	if err != nil {
		require.False(c.t, errors.Is(err, os.ErrDeadlineExceeded), "no reply")
		return answer{}
	}
	require.NoError(c.t, json.Unmarshal(text[:len(text)-1], &a))
	return a
}

// quiet checks that nothing comes for a moment.
func (c *client) quiet() {
	c.t.Helper()
	require.NoError(c.t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := c.r.Peek(1)
	require.ErrorIs(c.t, err, os.ErrDeadlineExceeded)
}

// call calls and takes the reply.
func (c *client) call(method, parameters string) answer {
	c.t.Helper()
	c.send(method, parameters, "")
	return c.receive()
}

// ok calls and requires success.
func (c *client) ok(method, parameters string) map[string]any {
	c.t.Helper()
	a := c.call(method, parameters)
	require.Empty(c.t, a.Error, "%s %s: %v", method, parameters, a.Parameters)
	require.False(c.t, a.Continues)
	require.NotNil(c.t, a.Parameters)
	return a.Parameters
}

// fails calls and requires an error, of our interface if there is no dot in it.
func (c *client) fails(name, method, parameters string) map[string]any {
	c.t.Helper()
	a := c.call(method, parameters)
	if filepath.Ext(name) == "" {
		name = Interface + "." + name
	}
	require.Equal(c.t, name, a.Error, "%s %s: %v", method, parameters, a.Parameters)
	return a.Parameters
}

// all calls with more and takes all replies.
func (c *client) all(method, parameters string) (list []map[string]any) {
	c.t.Helper()
	c.send(method, parameters, "more")
	for {
		a := c.receive()
		require.Empty(c.t, a.Error, "%v", a.Parameters)
		list = append(list, a.Parameters)
		if !a.Continues {
			return list
		}
	}
}
