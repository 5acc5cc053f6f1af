package libdlm

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/cluster"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a library, and the files of a node, of which nothing is real.
type machine struct {
	t    *testing.T
	root string

	mu      sync.Mutex
	misc    map[string]bool
	devices []*script
	fails   []error // of the next calls
	calls   []string
	before  func() // runs in the next call
	unseen  bool   // /proc/misc does not exist
}

func newMachine(t *testing.T) (*machine, *Engine) {
	m := &machine{t: t, root: t.TempDir(), misc: map[string]bool{"dlm-control": true}}
	m.put("sys/kernel/config/dlm/cluster/comms/3/local", "1\n")
	m.put("sys/kernel/config/dlm/cluster/comms/3/nodeid", "3\n")
	m.write()
	e := newEngine(m, quiet)
	e.host = cluster.At(m.root, filepath.Join(m.root, "socket"))
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return m, e
}

func (m *machine) put(name, text string) {
	name = filepath.Join(m.root, name)
	require.NoError(m.t, os.MkdirAll(filepath.Dir(name), 0o755))
	require.NoError(m.t, os.WriteFile(name, []byte(text), 0o644))
}

// write writes /proc/misc, unless it is hidden.
func (m *machine) write() {
	if m.unseen {
		_ = os.Remove(filepath.Join(m.root, "proc/misc"))
		return
	}
	var b strings.Builder
	for name := range m.misc {
		fmt.Fprintf(&b, " 57 %s\n", name)
	}
	m.put("proc/misc", b.String())
}

func (m *machine) call(what string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, what)
	if m.before != nil {
		m.before()
		m.before = nil
	}
	if len(m.fails) == 0 {
		return nil
	}
	err := m.fails[0]
	m.fails = m.fails[1:]
	return err
}

func (m *machine) device() (device, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := newScript(m.t)
	m.devices = append(m.devices, d)
	return d, nil
}

func (m *machine) start() error { return m.call("start") }

func (m *machine) open(name string) (device, error) {
	if err := m.call("open " + name); err != nil {
		return nil, err
	}
	if !m.misc["dlm_"+name] {
		return nil, syscall.ENOENT
	}
	return m.device()
}

func (m *machine) create(name string) (device, error) {
	if err := m.call("create " + name); err != nil {
		return nil, err
	}
	m.misc["dlm_"+name] = true
	m.write()
	return m.device()
}

func (m *machine) release(name string, d device) error {
	if err := m.call("release " + name); err != nil {
		if err == errUsed {
			return d.close()
		}
		return err
	}
	delete(m.misc, "dlm_"+name)
	m.write()
	return d.close()
}

// errUsed makes release only count down a user.
var errUsed = fmt.Errorf("one user less")

func ignore(dlm.Event) {}

func TestOpen(t *testing.T) {
	m, e := newMachine(t)
	_, err := e.Open(t.Context(), "foo", ignore)
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
	m.misc["dlm_foo"] = true
	m.write()
	s, err := e.Open(t.Context(), "foo", ignore)
	require.NoError(t, err)
	require.Equal(t, "foo", s.Name())
	require.NoError(t, s.Close())
	require.Equal(t, []string{"start", "open foo", "open foo"}, m.calls, "started once")
	_, err = e.Open(t.Context(), "a/b", ignore)
	require.ErrorIs(t, err, dlm.ErrName)
}

func TestOpenWaitsForUdev(t *testing.T) {
	m, e := newMachine(t)
	m.misc["dlm_foo"] = true
	m.write()
	m.fails = []error{nil, syscall.ENOENT, syscall.ENOENT}
	s, err := e.Open(t.Context(), "foo", ignore)
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.Len(t, m.calls, 4)
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for errno, want := range map[syscall.Errno]error{
		syscall.EUNATCH:      dlm.ErrClusterUnavailable,
		syscall.ECONNREFUSED: dlm.ErrClusterUnavailable,
		syscall.EEXIST:       dlm.ErrLockspaceExists,
		syscall.EPERM:        syscall.EPERM,
	} {
		m, e := newMachine(t)
		m.fails = []error{nil, errno}
		_, err := e.Create(t.Context(), "foo", ignore)
		require.ErrorIs(t, err, want)
		var failed *dlm.Error
		require.ErrorAs(t, err, &failed)
		require.Equal(t, "create", failed.Op)
		require.Equal(t, "foo", failed.Lockspace)
		require.NotEmpty(t, failed.Advice)
	}
	m, e := newMachine(t)
	delete(m.misc, "dlm-control")
	m.write()
	_, err := e.Open(t.Context(), "foo", ignore)
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
	require.ErrorContains(t, err, "module dlm")
	require.Empty(t, m.calls, "the library would look for it for ten seconds")

	// The module is loaded, but udev has not created the device.
	m, e = newMachine(t)
	m.fails = []error{syscall.ENOENT}
	_, err = e.Open(t.Context(), "foo", ignore)
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
	require.NotErrorIs(t, err, dlm.ErrNoLockspace)
}

func TestCreateWithoutADaemonDoesNotWaitLong(t *testing.T) {
	m, e := newMachine(t)
	m.fails = slices.Repeat([]error{syscall.ENOTCONN}, 100)
	m.fails[0] = nil
	began := time.Now()
	_, err := e.Create(t.Context(), "foo", ignore)
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
	require.ErrorContains(t, err, adviceDaemon)
	require.Less(t, time.Since(began), joinWait/2)
}

func TestCreateTriesAgainWhileTheClusterComesUp(t *testing.T) {
	m, e := newMachine(t)
	daemon, err := net.Listen("unix", filepath.Join(m.root, "socket"))
	require.NoError(t, err)
	defer daemon.Close()
	m.fails = []error{nil, syscall.ENOTCONN, syscall.ENOTCONN}
	s, err := e.Create(t.Context(), "foo", ignore)
	require.NoError(t, err)
	require.NoError(t, s.Close())

	m.fails = []error{syscall.ENOTCONN, syscall.ENOTCONN, syscall.ENOTCONN}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = e.Create(ctx, "bar", ignore)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestJoinedWithoutADevice(t *testing.T) {
	m, e := newMachine(t)
	m.fails = []error{nil, syscall.ENOENT}
	m.before = func() { m.misc["dlm_foo"] = true; m.write() }
	_, err := e.Create(t.Context(), "foo", ignore)
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
	require.ErrorContains(t, err, "udev")
}

// A lockspace that is opened after its caller has given up is closed again.
func TestOpenThatComesTooLate(t *testing.T) {
	m, e := newMachine(t)
	require.NoError(t, e.start())
	m.misc["dlm_foo"] = true
	m.write()
	ctx, cancel := context.WithCancel(t.Context())
	m.before = cancel
	_, err := e.Open(ctx, "foo", ignore)
	if err == nil {
		return // the answer came first
	}
	require.ErrorIs(t, err, context.Canceled)
	first := func() *script {
		m.mu.Lock()
		defer m.mu.Unlock()
		if len(m.devices) == 0 {
			return nil
		}
		return m.devices[0]
	}
	require.Eventually(t, func() bool { return first() != nil }, time.Minute, time.Millisecond)
	<-first().closed
}

func TestNoNodeNoLockspace(t *testing.T) {
	m, e := newMachine(t)
	require.NoError(t, os.RemoveAll(filepath.Join(m.root, "sys")))
	_, err := e.Create(t.Context(), "foo", ignore)
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
	<-m.devices[0].closed
}

func TestRemove(t *testing.T) {
	m, e := newMachine(t)
	require.ErrorIs(t, e.Remove(t.Context(), "foo"), dlm.ErrNoLockspace)
	var first, second events
	_, err := e.Create(t.Context(), "foo", first.sink)
	require.NoError(t, err)
	_, err = e.Open(t.Context(), "foo", second.sink)
	require.NoError(t, err)
	other, err := e.Create(t.Context(), "bar", ignore)
	require.NoError(t, err)
	m.calls = nil

	m.fails = []error{nil, errUsed} // two users: the first release is not the last
	require.NoError(t, e.Remove(t.Context(), "foo"))
	require.Equal(t, []string{"open foo", "release foo", "open foo", "release foo"}, m.calls)
	for _, ev := range []*events{&first, &second} {
		require.Equal(t, []dlm.Event{{Kind: dlm.Closed, Mode: dlm.None}}, ev.take())
	}
	<-m.devices[0].closed
	<-m.devices[1].closed
	require.NoError(t, other.Close())
}

func TestSomebodyElseLeavesTheLockspace(t *testing.T) {
	m, e := newMachine(t)
	var ev events
	_, err := e.Create(t.Context(), "foo", ev.sink)
	require.NoError(t, err)
	e.removed("foo")
	require.Empty(t, ev.take(), "the device is there: the event is from before it was made")
	delete(m.misc, "dlm_foo")
	m.write()
	e.removed("fo")
	require.Empty(t, ev.take())
	e.removed("foo")
	require.Equal(t, []dlm.Event{{Kind: dlm.Closed, Mode: dlm.None}}, ev.take())

	_, err = e.Create(t.Context(), "foo", ev.sink)
	require.NoError(t, err)
	delete(m.misc, "dlm_foo")
	m.write()
	e.recheck()
	require.Len(t, ev.take(), 1)
}

func TestClosedEngine(t *testing.T) {
	m, e := newMachine(t)
	s, err := e.Create(t.Context(), "foo", ignore)
	require.NoError(t, err)
	require.NoError(t, e.Close())
	require.NoError(t, e.Close())
	<-m.devices[0].closed
	require.NoError(t, s.Close())
	_, err = e.Open(t.Context(), "foo", ignore)
	require.ErrorIs(t, err, dlm.ErrClosed)
	<-m.devices[1].closed
}

func TestUevents(t *testing.T) {
	for message, want := range map[string]string{
		"remove@/devices/virtual/misc/dlm_foo\x00ACTION=remove\x00DEVNAME=dlm_foo\x00": "foo",
		"add@/devices/virtual/misc/dlm_foo\x00ACTION=add\x00":                          "",
		"remove@/devices/virtual/misc/dlm_":                                            "",
		"remove@/devices/virtual/misc/dlm-control\x00":                                 "",
		"offline@/kernel/dlm/foo\x00":                                                  "",
		"":                                                                             "",
	} {
		name, ok := removedLockspace([]byte(message))
		require.Equal(t, want, name)
		require.Equal(t, want != "", ok)
	}
	u, err := openUevents()
	require.NoError(t, err)
	done := make(chan struct{})
	go func() { u.watch(func(string) {}, func() {}); close(done) }()
	u.close()
	<-done
}
