package virtlockd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/virtlockd/disknames"
)

// asGuest tells this program to be the child that becomes QEMU: it registers
// itself at the socket with that path, and keeps the connection.
const asGuest = "VIRTLOCKD_GUEST"

func beGuest(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	h := header{Program: programLock, Version: protocolVersion, Procedure: procRegister}
	u := guestUUID(int(os.Getenv(asGuest + "_N")[0] - '0'))
	if _, err = conn.Write(appendMessage(nil, h, xdr(u, "web", 7, os.Getpid(), 0))); err != nil {
		return err
	}
	if _, err = io.ReadFull(conn, make([]byte, headerSize)); err != nil {
		return err
	}
	fmt.Println("registered")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

// guestProcess starts a guest, which has registered itself when this returns.
func guestProcess(t testing.TB, h *host, n int, credential *syscall.Credential) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asGuest+"="+h.socket, fmt.Sprintf("%s_N=%d", asGuest, n))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: credential}
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, _ := bufio.NewReader(out).ReadString('\n')
	if credential == nil {
		require.Equal(t, "registered\n", line)
	} else {
		require.Empty(t, line)
	}
	return cmd
}

// call says a line in the words of probes.txt, for the guest with that pid.
func (c *client) call(t testing.TB, pid int, format string, args ...any) (code, string) {
	t.Helper()
	request := c.request(t, strings.Fields(fmt.Sprintf(format, args...)))
	for n := range 10 {
		request = []byte(strings.ReplaceAll(string(request), string(pidMark(n)), string(xdr(pid))))
	}
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	_, err := c.Write(request)
	require.NoError(t, err)
	return c.reply(t)
}

// ok requires that a call is good.
func (c *client) ok(t testing.TB, pid int, format string, args ...any) {
	t.Helper()
	n, message := c.call(t, pid, format, args...)
	require.Zero(t, n, message)
}

// acting is a connection of libvirtd for guest n.
func acting(t testing.TB, h *host, n int, name string, pid int) *client {
	c := dial(t, h.socket)
	c.ok(t, pid, "register %d %s 7 0", n, name)
	return c
}

// Only root may lock disks.
func TestRootOnly(t *testing.T) {
	h := start(t, Settings{})
	require.NoError(t, os.Chmod(h.dir, 0o755))
	require.NoError(t, os.Chmod(h.socket, 0o777))
	guestProcess(t, h, 1, &syscall.Credential{Uid: 65534, Gid: 65534})
	require.Zero(t, h.door.Connections())
	guestProcess(t, h, 1, nil)
}

// Locks belong to the guest: they outlive every connection, and the service, and
// end with the process.
func TestLifetime(t *testing.T) {
	h := start(t, Settings{})
	g := guestProcess(t, h, 1, nil)
	pid := g.Process.Pid
	c := acting(t, h, 1, "web", pid)
	c.ok(t, pid, `acquire "" /a 0`)
	c.ok(t, pid, `acquire "" /b 1`)
	require.NoError(t, c.Close())
	h.held("web: /a EX", "web: /b PR")
	begun, err := process.Start(uint32(pid))
	require.NoError(t, err)
	require.Equal(t, []string{fmt.Sprintf("11111111-1111-1111-1111-111111111111/%d/%d", pid, begun)}, h.owners())

	h.restart()
	h.held("web: /a EX", "web: /b PR")
	c = acting(t, h, 1, "web", pid)
	c.ok(t, pid, `acquire "" /a 0`)
	c.ok(t, pid, `release "" /b 0`)
	h.held("web: /a EX")
	other := acting(t, h, 2, "db", os.Getpid())
	n, said := other.call(t, 0, `acquire "" /a 0`)
	require.Equal(t, codeResourceBusy, n)
	require.Contains(t, said, "resource busy: '/a' is in use by domain 'web' on node 1")

	require.NoError(t, g.Process.Kill())
	_ = g.Wait()
	h.held()
	n, said = c.call(t, pid, `acquire "" /a 0`)
	require.Equal(t, codeOperationFailed, n, said)
	c.ok(t, pid, `release "" /a 0`) // has gone with it
	other.ok(t, 0, `acquire "" /a 0`)
	// Who registers for a process that has ended is told at the first disk.
	c = acting(t, h, 1, "web", pid)
	n, said = c.call(t, pid, `acquire "" /c 0`)
	require.Equal(t, codeOperationFailed, n)
	require.Contains(t, said, fmt.Sprintf("operation failed: '/c' of domain 'web' can't be locked: the domain has "+
		"no process that could hold locks (pid %d)", pid))
	c.ok(t, pid, `release "" /c 0`)
}

// A pid that is another process's by now is refused: the start time is that of the
// process which has registered itself, for as long as its connection is open.
func TestReusedPID(t *testing.T) {
	h := start(t, Settings{})
	g := guestProcess(t, h, 1, nil)
	pid := uint32(g.Process.Pid)
	h.door.guests.mu.Lock()
	f, ok := h.door.guests.start[pid]
	require.True(t, ok)
	f.start--
	h.door.guests.start[pid] = f
	h.door.guests.mu.Unlock()
	n, said := acting(t, h, 1, "web", int(pid)).call(t, 0, `acquire "" /a 0`)
	require.Equal(t, codeOperationFailed, n)
	require.Contains(t, said, "started at clock tick")
	h.held()
	require.NoError(t, g.Process.Kill())
	_ = g.Wait()
	require.Eventually(t, func() bool { _, ok := h.door.guests.find(pid); return !ok }, patience, time.Millisecond)
}

// The client gives up at the first refusal and releases nothing. So what the
// connection has newly taken is released, and what the guest had before is not.
func TestRefusalReleasesWhatIsNew(t *testing.T) {
	h := start(t, Settings{})
	pids := sleepers(t, 2)
	defer pids.end(t)
	web, db := pids[0].Process.Pid, pids[1].Process.Pid
	acting(t, h, 1, "web", web).ok(t, 0, `acquire "" /before 0`)
	other := acting(t, h, 2, "db", db)
	other.ok(t, 0, `acquire "" /b 0`)
	for range 2 {
		c := acting(t, h, 1, "web", web)
		c.ok(t, 0, `acquire "" /before 0`)
		c.ok(t, 0, `acquire "" /a 0`)
		c.ok(t, 0, `acquire "" /a 0`)
		n, _ := c.call(t, 0, `acquire "" /b 0`)
		require.Equal(t, codeResourceBusy, n)
		require.Equal(t, []string{"db: /b EX", "web: /before EX"}, h.locks())
	}
	other.ok(t, 0, `release "" /b 0`)
	c := acting(t, h, 1, "web", web)
	for _, disk := range []string{"/before", "/a", "/b"} {
		c.ok(t, 0, `acquire "" %s 0`, disk)
	}
	require.Equal(t, []string{"web: /a EX", "web: /b EX", "web: /before EX"}, h.locks())
}

// Every call is answered in time while the lockspace is stopped, others are not
// hindered, and nothing is left of what was withdrawn.
func TestStoppedLockspace(t *testing.T) {
	const timeout = 300 * time.Millisecond
	cluster := local.NewCluster("test")
	// With this time limit calls are answered even on a busy machine.
	long := Settings{Timeout: time.Minute, Directories: map[string]string{"/spaces": "volumes"}}
	short := long
	short.Timeout = timeout
	h := startOn(t, cluster.AddNode(1), long)
	pids := sleepers(t, 2)
	defer pids.end(t)
	web, db := pids[0].Process.Pid, pids[1].Process.Pid
	c := acting(t, h, 1, "web", web)
	c.ok(t, 0, `acquire "" /a 0`)
	cluster.Stop("libvirt", "a test")
	h.door.Configure(short)
	for _, line := range []string{`acquire "" /b 0`, `release "" /a 0`} {
		begun := time.Now()
		n, said := c.call(t, 0, "%s", line)
		took := time.Since(begun)
		require.Equal(t, codeOperationFailed, n, said)
		t.Logf("%s: after %v: %s", line, took, said)
		require.Less(t, took, timeout+20*time.Second)
	}
	h.door.Configure(long)
	other := acting(t, h, 2, "db", db)
	other.ok(t, 0, `lockspace /var/lib/anything`)
	other.ok(t, 0, `acquire /spaces x 0`)
	cluster.Resume("libvirt")
	h.held("db: /spaces/x EX")
	c = acting(t, h, 1, "web", web)
	require.Eventually(t, func() bool { n, _ := c.call(t, 0, `acquire "" /b 0`); return n == 0 }, patience,
		time.Millisecond)
	other.ok(t, 0, `release /spaces x 0`)
	h.held("web: /b EX")
}

// Calls that wait delay no other connection, however many there are.
func TestWaitingCallsDelayNobody(t *testing.T) {
	cluster := local.NewCluster("test")
	h := startOn(t, cluster.AddNode(1),
		Settings{Timeout: time.Minute, Directories: map[string]string{"/spaces": "volumes"}})
	cluster.Stop("libvirt", "a test")
	var waiting []*client
	for n := range 5 {
		c := acting(t, h, 1, "web", os.Getpid())
		_, err := c.Write(c.request(t, strings.Fields(fmt.Sprintf(`acquire "" /%d 0`, n))))
		require.NoError(t, err)
		waiting = append(waiting, c)
		other := acting(t, h, 2, "db", os.Getpid())
		other.ok(t, 0, `acquire /spaces x%d 0`, n)
		other.ok(t, 0, `release /spaces x%d 0`, n)
	}
	cluster.Resume("libvirt")
	for _, c := range waiting {
		c.reply(t) // a grant, or a refusal if the service knew by then that the lockspace is stopped
		c.ok(t, 0, `lockspace /var/lib/libvirt/lockd/files`)
	}
}

// The door closes at once, though a client does not read its answers: only what a call
// waits for of the service is waited for.
func TestCloseDoesNotWaitForReaders(t *testing.T) {
	h := start(t, Settings{Timeout: time.Minute})
	c := dial(t, h.socket)
	request := c.request(t, strings.Fields("lockspace /spaces/files"))
	go func() {
		for {
			if _, err := c.Write(request); err != nil {
				return
			}
		}
	}()
	require.Eventually(t, func() bool {
		h.door.mu.Lock()
		defer h.door.mu.Unlock()
		for _, c := range h.door.connections {
			return c.events == unix.EPOLLOUT
		}
		return false
	}, patience, time.Millisecond, "the socket is full")
	begun := time.Now()
	require.NoError(t, h.door.Close())
	require.Less(t, time.Since(begun), 30*time.Second)
	require.True(t, h.door.loops[0].ended, "so a second Close writes to no descriptor that was reused")
	require.NoError(t, h.door.Close())
}

// While the service starts, what needs it is refused in time, and what libvirtd
// needs to start is good at once.
func TestServiceStarts(t *testing.T) {
	h := &host{t: t, node: local.NewCluster("test").AddNode(1), dir: t.TempDir(),
		set: Settings{Timeout: 200 * time.Millisecond}, log: io.Discard}
	h.socket = h.dir + "/sock"
	h.open()
	t.Cleanup(h.end)
	c := dial(t, h.socket)
	c.ok(t, 0, `lockspace /var/lib/libvirt/lockd/files`)
	c.ok(t, os.Getpid(), `register 1 web 7 0`)
	for _, call := range []string{"acquire", "release"} {
		n, said := c.call(t, 0, `%s "" /a 0`, call)
		require.Equal(t, codeOperationFailed, n)
		require.Contains(t, said, "the lock service has no answer after 200ms")
	}
	h.door.Configure(Settings{Timeout: time.Minute}) // the machine may be busy
	h.serve()
	c.ok(t, 0, `acquire "" /a 0`)
	h.held("web: /a EX")
}

// A disk has one name, whichever way libvirt names it; those that dlmlock.so gives
// it are in libvirt/naming.c.
func TestNames(t *testing.T) {
	s := Settings{Lockspace: "libvirt", Directories: map[string]string{"/spaces/lvm/": "volumes", "/spaces/scsi": "luns"}}
	const hash = "f97a7a7b8a6f0d0cba0dcb8b0b1ba0ed"
	for _, c := range []struct {
		path, name, lockspace string
		resources             []string
	}{
		{"", "/images/a.img", "libvirt", []string{disknames.Hash("/images/a.img")}},
		{"", "/images//./a.img", "libvirt", []string{disknames.Hash("/images//./a.img"), disknames.Hash("/images/a.img")}},
		{"", "/images/../a.img/", "libvirt", []string{disknames.Hash("/images/../a.img/"),
			disknames.Hash("/images/../a.img")}},
		{"", "a.img", "libvirt", []string{disknames.Hash("a.img")}},
		{"/var/lib/libvirt/lockd/files", hash + hash, "libvirt", []string{hash + hash}},
		{"/spaces//lvm", "ewEa9k-ymCL-R3Yd-Lq1f-jeTh-QzrH-3MB5g1", "volumes", []string{"ewEa9kymCLR3YdLq1fjeThQzrH3MB5g1"}},
		{"/spaces/scsi", "3600508b400105e210000900000490000", "luns", []string{"3600508b400105e210000900000490000"}},
		{"/spaces/scsi", "1ATA with blanks", "luns", []string{disknames.Hash("1ATA with blanks")}},
		{"/spaces/scsi", strings.Repeat("x", 65), "luns", []string{disknames.Hash(strings.Repeat("x", 65))}},
		{"/nowhere/leases", "key", "leases", []string{"key"}},
		{"/nowhere/leases", "ewEa9k-ymCL-R3Yd-Lq1f-jeTh-QzrH-3MB5g1", "leases",
			[]string{"ewEa9k-ymCL-R3Yd-Lq1f-jeTh-QzrH-3MB5g1"}},
	} {
		got, err := s.target(resourceArgs{Path: c.path, Name: c.name})
		require.NoError(t, err)
		require.Equal(t, c.lockspace, got.lockspace, c.name)
		require.Equal(t, c.resources, got.resources, c.name)
	}
	_, err := s.target(resourceArgs{Path: "/nowhere/leases", Name: strings.Repeat("k", 65)})
	require.ErrorContains(t, err, "its key has 65 bytes, and names of the DLM have 1 to 64")
}

// A lease goes to the lockspace that it names, and one that is not joined is told.
func TestLease(t *testing.T) {
	h := start(t, Settings{})
	c := acting(t, h, 1, "web", os.Getpid())
	c.ok(t, 0, `acquire /nowhere/leases the-disk 0`)
	h.held("web: /nowhere/leases/the-disk EX")
	n, said := c.call(t, 0, `acquire /nowhere/strange the-disk 0`)
	require.Equal(t, codeOperationFailed, n)
	require.Contains(t, said, "the lockspace is not joined here; add it to lockspaces in /etc/dlmlockd.toml and do")
	c.ok(t, 0, `release /nowhere/strange the-disk 0`)
	h.held()
}

// Names of any length and of any bytes.
func TestLongNames(t *testing.T) {
	h := start(t, Settings{})
	c := acting(t, h, 1, "web", os.Getpid())
	long := strings.Repeat("/"+strings.Repeat("x", 200), 20)
	c.ok(t, 0, `acquire "" %s 0`, long)
	c.ok(t, 0, `acquire "" %s 0`, long[:len(long)-1])
	c.ok(t, 0, "acquire \"\" /\xff\x01 0")
	require.Len(t, h.locks(), 3)
	c.ok(t, 0, `release "" %s 0`, long)
	require.Len(t, h.locks(), 2)
	n, said := c.call(t, 0, `acquire "" %s 0`, "/"+strings.Repeat("x", maxString-1))
	require.Equal(t, codeOperationFailed, n)
	require.Contains(t, said, "can't be identified: file name too long")
	require.Less(t, len(said), 1000)
}

// A disk is one disk, however its path is spelled, and each of its locks has the path
// that was given as its label, by which a release finds them all.
func TestSpellings(t *testing.T) {
	h := start(t, Settings{})
	pids := sleepers(t, 2)
	defer pids.end(t)
	web, db := pids[0].Process.Pid, pids[1].Process.Pid
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		require.NoError(t, os.WriteFile(dir+"/"+name, nil, 0o644))
	}
	require.NoError(t, os.Symlink("a", dir+"/link"))
	for _, path := range []string{"/link", "/./a", "//link"} {
		c := acting(t, h, 1, "web", web)
		c.ok(t, 0, `acquire "" %s 0`, dir+path)
		other := acting(t, h, 2, "db", db)
		n, said := other.call(t, 0, `acquire "" %s 0`, dir+"/a")
		require.Equal(t, codeResourceBusy, n, said)
		require.Contains(t, said, "is in use by domain 'web' (as '"+dir+path+"') on node 1")
		other.ok(t, 0, `acquire "" %s 0`, dir+"/b")
		require.NoError(t, os.Remove(dir+"/link"))
		require.NoError(t, os.Symlink("b", dir+"/link"))
		c.ok(t, 0, `release "" %s 0`, dir+path) // also where the link leads elsewhere now
		require.Equal(t, []string{"db: " + dir + "/b EX"}, h.locks())
		require.NoError(t, os.Remove(dir+"/link"))
		require.NoError(t, os.Symlink("a", dir+"/link"))
		other.ok(t, 0, `release "" %s 0`, dir+"/b")
	}
}

// Another node may tell the first bytes of the label only.
func TestHolderOnAnotherNode(t *testing.T) {
	o := &operation{target: target{what: "/images/web.img"}}
	for label, want := range map[string]string{
		"web: /im": "domain 'web'", "blocks1:": "domain 'blocks1'", "database": "domain 'database…'",
		"w: /x": "domain 'w' (as '/x')",
	} {
		require.Equal(t, want, o.called(label, ""))
	}
	require.Equal(t, "'somebody'", o.called("somebody", "x"))
	require.Equal(t, "'x'", o.called("", "x"))
}

// When the service ends while a call waits, the call is answered, the door does not wait for its time
// limit, and the lock is not taken afterwards.
func TestServiceEndsDuringACall(t *testing.T) {
	cluster := local.NewCluster("test")
	h := startOn(t, cluster.AddNode(1), Settings{Timeout: time.Hour})
	c := acting(t, h, 1, "web", os.Getpid())
	c.ok(t, 0, `acquire "" /held 0`)
	cluster.Stop("libvirt", "a test")
	waits := func(is bool) {
		t.Helper()
		require.Eventually(t, func() bool {
			h.door.mu.Lock()
			defer h.door.mu.Unlock()
			for _, c := range h.door.connections {
				return c.relieved == is
			}
			return false
		}, patience, time.Millisecond)
	}
	waits(false) // the call before is over
	_, err := c.Write(c.request(t, strings.Fields(`acquire "" /a 0`)))
	require.NoError(t, err)
	waits(true)
	closed := make(chan error, 1)
	go func() { closed <- h.door.Close() }()
	h.stop() // as the daemon does when the time for answers is over
	n, said := c.reply(t)
	require.Equal(t, codeOperationFailed, n, said)
	t.Log(said)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, <-closed)
	h.end()
	cluster.Resume("libvirt")
	h.open()
	h.serve()
	h.held("web: /held EX")
	c = acting(t, h, 1, "web", os.Getpid())
	c.ok(t, 0, `acquire "" /a 0`)
	h.held("web: /a EX", "web: /held EX")
}
