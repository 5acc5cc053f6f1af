package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// machine makes the files of node 2 of a cluster of two with the lockspace foo.
func machine(t *testing.T) *Host {
	root := t.TempDir()
	for name, text := range map[string]string{
		configfs + "/cluster_name":              "prod\n",
		configfs + "/comms/1/local":             "0\n",
		configfs + "/comms/1/nodeid":            "1\n",
		configfs + "/comms/2/local":             "1\n",
		configfs + "/comms/2/nodeid":            "2\n",
		configfs + "/spaces/foo/nodes/1/nodeid": "1\n",
		configfs + "/spaces/foo/nodes/2/nodeid": "2\n",
		configfs + "/spaces/foo/nodes/2/weight": "1\n",
		sysfs + "/foo/id":                       "1826763677\n",
		sysfs + "/foo/recover_status":           "ff\n",
		sysfs + "/bar/recover_status":           "0\n",
		"proc/1/comm":                           "init\n",
		"proc/sys/kernel/osrelease":             "6.12.117+deb12-amd64\n",
		"proc/misc":                             " 56 dlm_foo\n 57 dlm-monitor\n 58 dlm-control\n",
		debugfs + "/foo_toss":                   "version 4 rsb 2\n",
		debugfs + "/comms/1/state":              "x",
	} {
		put(t, filepath.Join(root, name), text)
	}
	for _, table := range []string{"foo_all", "foo_toss"} {
		b, err := os.ReadFile(filepath.Join("testdata/debugfs/6.12/node2", table))
		require.NoError(t, err)
		put(t, filepath.Join(root, debugfs, table), string(b))
	}
	return At(root, filepath.Join(root, "socket"))
}

func put(t *testing.T, name, text string) {
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
	require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
}

func TestNode(t *testing.T) {
	h := machine(t)
	info, err := h.Node(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint32(2), info.ID)
	require.Equal(t, "prod", info.Cluster)

	_, err = At(t.TempDir(), "").Node(t.Context())
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
}

func TestLockspaces(t *testing.T) {
	h := machine(t)
	names, err := h.Lockspaces(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"bar", "foo"}, names)
	names, err = At(t.TempDir(), "").Lockspaces(t.Context())
	require.NoError(t, err)
	require.Empty(t, names)
	require.Equal(t, []uint32{1, 2}, h.Members("foo"))
	id, err := h.LockspaceID("foo")
	require.NoError(t, err)
	require.Equal(t, uint32(0x6ce2339d), id)
	for name, want := range map[string]bool{"dlm_foo": true, "dlm_fo": false} {
		has, err := h.HasMisc(name)
		require.NoError(t, err)
		require.Equal(t, want, has, name)
	}
}

// A file that can't be read does not count as missing.
func TestNotSeenIsNotGone(t *testing.T) {
	h := machine(t)
	require.ErrorIs(t, h.member("none"), dlm.ErrNoLockspace)
	require.NoError(t, os.RemoveAll(h.path("sys")))
	err := h.member("foo")
	require.Error(t, err)
	require.NotErrorIs(t, err, dlm.ErrNoLockspace, "no sysfs")
	require.NoError(t, os.Remove(h.path("proc/misc")))
	_, err = h.HasMisc("dlm_foo")
	require.Error(t, err)
	require.NoError(t, os.Mkdir(h.path("proc/misc"), 0o700)) // can be opened, not read
	_, err = h.HasMisc("dlm_foo")
	require.Error(t, err)
}

func TestQueuesFromFiles(t *testing.T) {
	h := machine(t)
	_, err := h.Queues(t.Context(), "none", "x")
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
	_, err = h.Queues(t.Context(), "../foo", "x")
	require.ErrorIs(t, err, dlm.ErrName)

	q, err := h.Queues(t.Context(), "foo", "only-2")
	require.NoError(t, err)
	require.Equal(t, dlm.Queues{Master: 2, Complete: true,
		Granted: []dlm.Held{{LockID: 4, Node: 2, Mode: dlm.EX, Wanted: dlm.None}}}, q)

	q, err = h.Queues(t.Context(), "foo", "only-1")
	require.NoError(t, err)
	require.Equal(t, uint32(1), q.Master, "the directory knows")
	require.NotEmpty(t, q.Missing)

	for _, release := range []string{"6.1.0-56-amd64\n", "6.9.12\n", "5.14.0-503.el9\n", "", "x.y\n"} {
		put(t, h.path("proc/sys/kernel/osrelease"), release)
		q, err = h.Queues(t.Context(), "foo", "only-1")
		require.NoError(t, err)
		require.Zero(t, q.Master, "the list of unused resources must not be read: %q", release)
		require.NotEmpty(t, q.Missing)
	}
	put(t, h.path("proc/sys/kernel/osrelease"), "7.2.12-amd64\n")
	q, err = h.Queues(t.Context(), "foo", "only-1")
	require.NoError(t, err)
	require.Equal(t, uint32(1), q.Master)

	q, err = h.Queues(t.Context(), "foo", "nobody's")
	require.NoError(t, err)
	require.NotEmpty(t, q.Missing)
	require.False(t, q.Complete)

	q, err = h.Queues(t.Context(), "bar", "x")
	require.NoError(t, err)
	require.Contains(t, q.Missing, "can't be read", "no debugfs, as under lockdown")
}

// Several resources are read in one pass, each as if it were alone.
func TestQueuesOfFromFiles(t *testing.T) {
	h := machine(t)
	names := []string{"only-2", "nobody's", "only-1", "only-2"}
	all, err := h.QueuesOf(t.Context(), "foo", names)
	require.NoError(t, err)
	require.Len(t, all, len(names))
	for i, name := range names {
		alone, err := h.Queues(t.Context(), "foo", name)
		require.NoError(t, err)
		require.Equal(t, alone, all[i], name)
	}
	all, err = h.QueuesOf(t.Context(), "foo", nil)
	require.NoError(t, err)
	require.Empty(t, all)
	_, err = h.QueuesOf(t.Context(), "none", names)
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
	_, err = h.QueuesOf(t.Context(), "foo", []string{"only-2", ""})
	require.ErrorIs(t, err, dlm.ErrName)
	all, err = h.QueuesOf(t.Context(), "bar", names)
	require.NoError(t, err)
	require.Contains(t, all[3].Missing, "can't be read")
}

// Somebody who does not wait any longer ends the reading of a long table.
func TestQueuesOfEnds(t *testing.T) {
	h := machine(t)
	var b strings.Builder
	for i := range 5000 {
		name := fmt.Sprintf("r%04d", i)
		fmt.Fprintf(&b, "rsb ptr 0 0 0 0 0 0 %d str %s\n", len(name), name)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := h.readQueues(ended, "foo", map[string]bool{"only-2": true}, 2)
	require.NoError(t, err, "a short one")
	rows := strings.ReplaceAll(b.String(), "rsb ptr", "rsb 00000000")
	require.NoError(t, os.WriteFile(h.path(debugfs, "foo_all"), []byte(rows), 0o600))
	_, err = h.readQueues(ended, "foo", map[string]bool{"r4999": true}, 2)
	require.ErrorIs(t, err, context.Canceled)
	found, err := h.readQueues(t.Context(), "foo", map[string]bool{"r4999": true}, 2)
	require.NoError(t, err)
	require.Contains(t, found, "r4999")
}

func TestOrphansFromFiles(t *testing.T) {
	h := machine(t)
	orphans, err := h.Orphans(t.Context(), "foo", nil)
	require.NoError(t, err)
	require.Equal(t, []dlm.Orphan{{LockID: 3, Resource: "shared.iso", Mode: dlm.PR},
		{LockID: 4, Resource: "only-2", Mode: dlm.EX}}, orphans)
	orphans, err = h.Orphans(t.Context(), "foo", func(id dlm.LockID) bool { return id == 3 })
	require.NoError(t, err)
	require.Len(t, orphans, 1)
	_, err = h.Orphans(t.Context(), "bar", nil)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A process that has the device open keeps its locks from being taken for orphans. /dev/full stands
// in for the device, because nobody else has it open.
func TestUsersOfADevice(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "dev/misc"), 0o755))
	require.NoError(t, os.Symlink("/dev/full", filepath.Join(root, "dev/misc/dlm_foo")))
	require.NoError(t, os.Symlink("/proc", filepath.Join(root, "proc")))
	h := At(root, "")

	device, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	require.NoError(t, err)
	defer device.Close()
	other := exec.Command("cat")
	other.ExtraFiles = []*os.File{device}
	in, err := other.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, other.Start())
	u := h.users(t.Context(), "foo")
	require.True(t, u.has(other.Process.Pid))
	require.False(t, u.has(os.Getpid()), "this process knows its own locks")
	require.False(t, u.has(1<<30))
	in.Close()
	require.NoError(t, other.Wait())
	require.False(t, u.has(other.Process.Pid), "it has ended")
	require.False(t, h.users(t.Context(), "foo").has(other.Process.Pid))
	require.Empty(t, h.users(t.Context(), "none").pids)
}

// daemon answers on the query socket as dlm_controld does, one query per connection.
type daemon struct{ states []any }

func (d *daemon) serve(t *testing.T, h *Host) {
	l, err := net.Listen("unix", h.sockets[0])
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var q header
			if binary.Read(c, binary.NativeEndian, &q) == nil {
				assert.Equal(t, uint32(magic), q.Magic)
				assert.Equal(t, uint32(cmdDumpStatus), q.Command, "other queries are a danger to dlm_controld")
				c.Write(d.answer())
			}
			c.Close()
		}
	}()
}

func (d *daemon) answer() []byte {
	var out bytes.Buffer
	for _, s := range d.states {
		binary.Write(&out, binary.NativeEndian, s)
	}
	return out.Bytes()
}

func (d *daemon) add(kind uint32, node int32, text string) {
	b := append([]byte(text), 0)
	d.states = append(d.states, state{Type: kind, Node: node, Text: uint32(len(b))}, b)
}

// The sizes are those of the C structures on every 64-bit machine.
func TestProtocolSizes(t *testing.T) {
	require.Equal(t, 96, binary.Size(header{}))
	require.Equal(t, 28, binary.Size(state{}))
}

func TestHealth(t *testing.T) {
	const quorum = "member_count=2 quorate=1 fence_pid=0 "
	both := []uint32{1, 2}
	for name, c := range map[string]struct {
		texts  []string // daemon, node 1, node 2
		status string   // recover_status
		want   dlm.Health
	}{
		"well on a node that is not the lowest": {[]string{quorum, "need_fencing=0 "}, "55",
			dlm.Health{Quorate: true, Known: true, Recovery: 0x55, Members: both}},
		"well": {[]string{quorum, "need_fencing=0 "}, "ff",
			dlm.Health{Quorate: true, Known: true, Recovery: 0xff, Members: both}},
		"a node that had no lock is fenced": {[]string{quorum, "need_fencing=1 "}, "ff",
			dlm.Health{Quorate: true, Known: true, Recovery: 0xff, Members: both}},
		"no quorum": {[]string{"quorate=0 ", "need_fencing=1 "}, "0",
			dlm.Health{Stopped: true, Known: true, Members: both, Reason: "no quorum"}},
		"fencing": {[]string{quorum, "member=0 need_fencing=1 ", "need_fencing=0 "}, "0",
			dlm.Health{Stopped: true, Quorate: true, Known: true, Members: both, Reason: "fencing node 1"}},
		"fencing two": {[]string{quorum, "member=0 need_fencing=1 ", "need_fencing=1 "}, "0",
			dlm.Health{Stopped: true, Quorate: true, Known: true, Members: both, Reason: "fencing nodes 1, 2"}},
		"messages": {[]string{quorum}, "0",
			dlm.Health{Stopped: true, Quorate: true, Known: true, Members: both,
				Reason: "nodes are joining or leaving"}},
		"recovering": {[]string{quorum}, "3",
			dlm.Health{Stopped: true, Quorate: true, Known: true, Members: both, Recovery: 3,
				Reason: "the kernel is recovering the locks"}},
		"unknown to the daemon": {[]string{quorum}, "0",
			dlm.Health{Stopped: true, Quorate: true, Known: true, Reason: "dlm_controld does not know the lockspace"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := machine(t)
			put(t, filepath.Join(h.root, sysfs, "foo/recover_status"), c.status+"\n")
			if c.want.Members == nil {
				require.NoError(t, os.RemoveAll(filepath.Join(h.root, configfs, "spaces/foo")))
			}
			var d daemon
			for i, text := range c.texts {
				kind := uint32(stateNode)
				if i == 0 {
					kind = stateDaemon
				}
				d.add(kind, int32(i), text)
			}
			d.serve(t, h)
			got, err := h.Health(t.Context(), "foo")
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

// An unreadable state does not count as "not stopped".
func TestHealthThatCanNotBeRead(t *testing.T) {
	h := machine(t)
	path := filepath.Join(h.root, sysfs, "foo/recover_status")
	put(t, path, "?\n")
	_, err := h.Health(t.Context(), "foo")
	require.Error(t, err)
	require.NoError(t, os.Remove(path))
	_, err = h.Health(t.Context(), "foo")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// The quorum is known if this node is in no lockspace, and unknown if dlm_controld does not answer.
func TestQuorum(t *testing.T) {
	for text, want := range map[string]bool{"quorate=1 ": true, "quorate=0 ": false} {
		h := machine(t)
		var d daemon
		d.add(stateDaemon, 0, text)
		d.serve(t, h)
		quorate, err := h.Quorum(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, quorate)
	}
	_, err := machine(t).Quorum(t.Context())
	require.ErrorIs(t, err, dlm.ErrClusterUnavailable)
}

func TestHealthWithoutDaemon(t *testing.T) {
	h := machine(t)
	got, err := h.Health(t.Context(), "bar")
	require.NoError(t, err)
	require.True(t, got.Stopped)
	require.False(t, got.Known, "quorum was not asked")
	require.False(t, h.DaemonRuns(t.Context()))
	var d daemon
	d.add(stateDaemon, 0, "quorate=1 ")
	d.serve(t, h)
	require.True(t, h.DaemonRuns(t.Context()))
	require.Contains(t, got.Reason, "dlm_controld does not answer")
	_, err = h.Health(t.Context(), "none")
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
}

// A process in a network namespace of its own reaches dlm_controld through a forwarder, which
// accepts connections even if dlm_controld is not running.
func TestForwardedQueries(t *testing.T) {
	h := machine(t)
	far := filepath.Join(h.root, "far")
	near := At(h.root, "@dlmlockd-test-nobody", far)
	_, err := near.status(t.Context())
	require.ErrorIs(t, err, syscall.ECONNREFUSED, "that of the first")
	var d daemon
	d.add(stateDaemon, 0, "quorate=1 ")
	d.serve(t, At(h.root, far))
	require.True(t, near.DaemonRuns(t.Context()))
	st, err := near.status(t.Context())
	require.NoError(t, err)
	require.True(t, st.quorate)

	mute := filepath.Join(h.root, "mute")
	l, err := net.Listen("unix", mute)
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Close()
		}
	}()
	require.False(t, At(h.root, mute).DaemonRuns(t.Context()))
}

func TestStatusCutShort(t *testing.T) {
	var d daemon
	d.add(stateDaemon, 1, "quorate=1 ")
	whole := d.answer()
	for n := range len(whole) {
		_, err := readStatus(bytes.NewReader(whole[:n]))
		require.Error(t, err, "%d bytes", n)
	}
	st, err := readStatus(bytes.NewReader(whole))
	require.NoError(t, err)
	require.True(t, st.quorate)
}

func FuzzStatus(f *testing.F) {
	var d daemon
	d.add(stateDaemon, 1, "quorate=1 ")
	d.add(stateNode, 2, "need_fencing=1 ")
	f.Add(d.answer())
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := readStatus(bytes.NewReader(b))
		require.True(t, (st == nil) == (err != nil))
		require.False(t, errors.Is(err, io.ErrNoProgress))
	})
}

// A process that can't be examined is an error: otherwise "nobody" could not be told from "could
// not look".
func TestUsersThatCanNotBeSeen(t *testing.T) {
	h := machine(t)
	root := h.root
	require.NoError(t, os.MkdirAll(filepath.Join(root, "dev/misc"), 0o755))
	require.NoError(t, os.Symlink("/dev/full", filepath.Join(root, "dev/misc/dlm_foo")))
	held := func(dlm.LockID) bool { return true }
	users := func() []dlm.User {
		found, err := h.Users(t.Context(), "foo", held)
		require.NoError(t, err)
		return found
	}
	require.Empty(t, users())
	put(t, filepath.Join(root, "proc/7/comm"), "other\n")
	require.Empty(t, users(), "it has ended meanwhile")
	require.NoError(t, os.MkdirAll(filepath.Join(root, "proc/7/fd"), 0o755))
	require.NoError(t, os.Symlink("socket:[1]", filepath.Join(root, "proc/7/fd/0")))
	require.NoError(t, os.Symlink("/gone", filepath.Join(root, "proc/7/fd/1")))
	require.Empty(t, users())

	fd := filepath.Join(root, "proc/7/fd/3")
	require.NoError(t, os.Symlink(fd, fd)) // fails with ELOOP, for root as well
	_, err := h.Users(t.Context(), "foo", held)
	require.ErrorIs(t, err, syscall.ELOOP)
	require.NoError(t, os.Remove(fd))
	put(t, filepath.Join(root, "proc/8/fd"), "no directory")
	_, err = h.Users(t.Context(), "foo", held)
	require.ErrorIs(t, err, syscall.ENOTDIR)

	require.NoError(t, os.Symlink("/dev/full", fd))
	require.Equal(t, []dlm.User{{PID: 7, Name: "other"}}, users(), "one is enough")
	require.Equal(t, "process 7 (other) has it open", users()[0].String())

	require.NoError(t, os.Remove(fd))
	late, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, h.scan(late, "foo").err, context.Canceled, "it was not looked at everything")

	require.NoError(t, os.RemoveAll(filepath.Join(root, "proc/1")))
	_, err = h.Users(t.Context(), "foo", held)
	require.ErrorIs(t, err, errHidden)

	none := machine(t)
	require.NoError(t, os.WriteFile(filepath.Join(none.root, "proc/misc"), nil, 0o644))
	_, err = none.Users(t.Context(), "foo", held)
	require.Error(t, err, "no device to look for")
	_, err = h.Users(t.Context(), "none", held)
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
}

// A lock of this node that neither the caller nor an open device explains belongs to something, for
// example the kernel. Orphans belong to nothing.
func TestUsersWithLocks(t *testing.T) {
	h := machine(t)
	put(t, filepath.Join(h.root, "proc/9/fd/0"), "")
	all, err := h.Users(t.Context(), "foo", nil)
	require.NoError(t, err)
	require.NotEmpty(t, all)
	for _, u := range all {
		require.True(t, u.Locked)
	}
}
