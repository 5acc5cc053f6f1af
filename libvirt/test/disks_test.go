package test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/client"
)

// held is how many locks a guest has.
func (r *rig) held(g *guest) int {
	r.t.Helper()
	locks, err := r.client.Locks(r.t.Context(), client.Filter{})
	require.NoError(r.t, err)
	n := 0
	for _, l := range locks {
		if l.PID == uint32(g.pid) {
			n++
		}
	}
	return n
}

func (r *rig) refused(g *guest, disk, holder string) {
	r.t.Helper()
	answer := r.do(g, "acquire 0", disk)
	require.True(r.t, strings.HasPrefix(answer, busy), "%s: %s", disk, answer)
	require.Contains(r.t, answer, holder)
	require.Zero(r.t, r.held(g))
}

// Two guests can't have one file, however each of them spells it, and a plain disk is one lock.
func TestOneFileManySpellings(t *testing.T) {
	r := start(t, "")
	d := images(t)
	require.NoError(t, os.Link(d+"/img/a.img", d+"/far/hard.img"))
	a, b := r.guest(uuidA, "web"), r.guest(uuidB, "db")
	require.Equal(t, "ok", r.do(a, "acquire 0", "0 "+d+"/far/a.img"))
	require.Equal(t, 1, r.held(a))
	require.Equal(t, "ok", r.do(a, "release", "0 "+d+"/far/a.img"))
	spellings := []string{"/img/a.img", "/img/link.img", "/img//a.img", "/img/./a.img", "/img/../img/a.img",
		"/dir/a.img", "/dirs/chain.img", "/far/hard.img"}
	for _, first := range spellings {
		require.Equal(t, "ok", r.do(a, "acquire 0", "0 "+d+first))
		require.Equal(t, "ok", r.do(a, "acquire 0", "0 "+d+first), "again")
		for _, second := range spellings {
			r.refused(b, "0 "+d+second, "web: "+d+first)
			r.refused(b, "1 "+d+second, "web: "+d+first)
		}
		require.Equal(t, "ok", r.do(b, "acquire 0", "0 "+d+"/far/a.img"), "another file")
		require.Equal(t, "ok", r.do(b, "release", "0 "+d+"/far/a.img"))
		require.Equal(t, "ok", r.do(a, "release", "0 "+d+first))
		require.Zero(t, r.held(a))
	}
	require.Equal(t, "ok", r.do(a, "acquire 0", "2 "+d+"/img/a.img"))
	require.Equal(t, "ok", r.do(b, "acquire 0", "1 "+d+"/img/link.img"), "shared")
}

// If the driver sees something that the names can't cover, it warns.
func TestWarnings(t *testing.T) {
	r := start(t, "")
	d := images(t)
	g := r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 "+d+"/img/link.img"))
	require.Equal(t, "log ", r.say("log"), "a file like others")
	require.NoError(t, os.Link(d+"/img/a.img", d+"/hard.img"))
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 "+d+"/hard.img"))
	require.Contains(t, r.say("log"), "domain web: '"+d+"/hard.img' is a file with 2 names (hard links)")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 "+d+"/nothing.img"))
	require.Contains(t, r.say("log"),
		"'"+d+"/nothing.img' can't be examined (No such file or directory), so it is locked only under its path as "+
			"spelled")
	answer := r.do(g, "acquire 0", "0 "+d+"/img/loop")
	require.True(t, strings.HasPrefix(answer, failed), answer)
	require.Contains(t, answer,
		"the disk '"+d+"/img/loop' of domain 'web' can't be identified: Too many levels of symbolic links")
}

// A block device has many names.
func TestOneDeviceManyNodes(t *testing.T) {
	r := start(t, "")
	d := images(t)
	for _, name := range []string{"/one", "/two"} {
		require.NoError(t, unix.Mknod(d+name, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))))
	}
	require.NoError(t, unix.Mknod(d+"/other", unix.S_IFBLK|0o600, int(unix.Mkdev(7, 1))))
	require.NoError(t, os.Symlink("one", d+"/by-id"))
	a, b := r.guest(uuidA, "web"), r.guest(uuidB, "db")
	require.Equal(t, "ok", r.do(a, "acquire 0", "0 "+d+"/one"))
	r.refused(b, "0 "+d+"/two", "web: "+d+"/one")
	r.refused(b, "0 "+d+"/by-id", "web: "+d+"/one")
	require.Equal(t, "ok", r.do(b, "acquire 0", "0 "+d+"/other"))
}

// A release releases exactly what was locked for the disk, whatever its link has become meanwhile.
func TestReleaseOfWhatWasTaken(t *testing.T) {
	r := start(t, "")
	d := images(t)
	g := r.guestWith(uuidA, "web", d+"/far/a.img", os.O_RDWR)
	link, other := d+"/img/link.img", d+"/far/a.img"
	for _, verb := range []string{"release", "detach"} {
		for what, change := range map[string]func() error{
			"leads to nothing": func() error { return os.Symlink("nothing", link) },
			"is a file now":    func() error { return os.WriteFile(link, nil, 0o644) },
			"is gone":          func() error { return nil },
			"is a loop":        func() error { return os.Symlink("link.img", link) },
		} {
			_ = os.Remove(link)
			require.NoError(t, os.Symlink("a.img", link))
			require.Equal(t, "ok", r.do(g, "acquire 0", "0 "+link, "0 "+other))
			require.Equal(t, 3, r.held(g))
			require.NoError(t, os.Remove(link))
			require.NoError(t, change())
			require.Equal(t, "ok", r.do(g, verb, "0 "+link))
			require.Equal(t, []string{"web: " + other + " EX"}, r.locks(), "%s, %s", verb, what)
		}
	}
	// The link leads to what the guest has as another disk, which must stay locked.
	_ = os.Remove(link)
	require.NoError(t, os.Symlink("a.img", link))
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 "+link))
	require.NoError(t, os.Remove(link))
	require.NoError(t, os.Symlink(other, link))
	require.Equal(t, "ok", r.do(g, "detach", "0 "+link))
	require.Contains(t, r.locks(), "web: "+other+" EX")
	require.Equal(t, "ok", r.do(g, "release", "0 "+link, "0 "+other))
	require.Empty(t, r.locks())
}

// acquireFor takes a lock for a guest as the driver does, under any name.
func (r *rig) acquireFor(g *guest, name, path string) {
	r.t.Helper()
	_, err := r.client.Acquire(r.t.Context(), client.Want{Lockspace: "libvirt", Resource: name, Mode: "EX"},
		client.Options{
			Owner: fmt.Sprintf("%s/%d/%s", g.uuid, g.pid, startTime(r.t, g.pid)), Label: g.name + ": " + path,
			Lifetime: "process", PID: uint32(g.pid)})
	require.NoError(r.t, err)
}

// A guest whose disk an older driver has locked, only under the path as it is spelled, blocks every
// spelling that leads to that one, and is released.
func TestGuestOfAnOlderDriver(t *testing.T) {
	r := start(t, "")
	d := images(t)
	old, b := r.guest(uuidA, "web"), r.guest(uuidB, "db")
	older := func(path string) { r.acquireFor(old, fmt.Sprintf("%x", sha256.Sum256([]byte(path))), path) }
	older(d + "/img/a.img")
	for _, spelling := range []string{"/img/a.img", "/img/link.img", "/img//a.img", "/dir/a.img"} {
		r.refused(b, "0 "+d+spelling, "web: "+d+"/img/a.img")
	}
	require.Equal(t, "ok", r.do(old, "release", "0 "+d+"/img/a.img"))
	require.Empty(t, r.locks())
	older(d + "/img/link.img")
	r.refused(b, "0 "+d+"/img/link.img", "web: ")
	// What docs/libvirt.md says: a suspend and a resume make it safe.
	require.Equal(t, "ok", r.do(old, "acquire 0", "0 "+d+"/img/link.img"))
	require.Equal(t, 2, r.held(old))
	r.refused(b, "0 "+d+"/img/a.img", "web: "+d+"/img/link.img")
	require.Equal(t, "ok", r.do(old, "detach", "0 "+d+"/img/link.img"))
	require.Empty(t, r.locks())
}

// guestWith is a guest that has a file open.
func (r *rig) guestWith(uuid, name, path string, flag int) *guest {
	f, err := os.OpenFile(path, flag, 0)
	require.NoError(r.t, err)
	defer f.Close()
	cmd := exec.Command("sleep", "infinity")
	cmd.ExtraFiles = []*os.File{f}
	require.NoError(r.t, cmd.Start())
	g := &guest{uuid, name, cmd.Process.Pid, cmd}
	r.t.Cleanup(g.kill)
	return g
}

// A disk is taken away while the guest has the same file as another one: what is
// in use stays locked, until the last is taken away or the guest is paused.
func TestDetachOfAFileInUse(t *testing.T) {
	r := start(t, "")
	d := images(t)
	reads := r.guestWith(uuidA, "web", d+"/img/a.img", os.O_RDONLY)
	writes := r.guestWith(uuidB, "db", d+"/img/a.img", os.O_RDWR)
	plain, link := d+"/img/a.img", d+"/img/link.img"
	require.Equal(t, "ok", r.do(reads, "acquire 0", "1 "+plain, "1 "+plain))
	require.Equal(t, "ok", r.do(reads, "detach", "1 "+plain))
	require.Equal(t, []string{"web: " + plain + " PR"}, r.locks(), "the other drive has it")
	require.Equal(t, "ok", r.do(reads, "release", "1 "+plain))
	require.Empty(t, r.locks(), "a guest that is paused lets go of all")

	require.Equal(t, "ok", r.do(reads, "acquire 0", "0 "+plain))
	require.Equal(t, "ok", r.do(reads, "detach", "0 "+plain))
	require.Empty(t, r.locks(), "an image that a snapshot was made of is read on, and not locked")

	require.Equal(t, "ok", r.do(writes, "acquire 0", "0 "+plain))
	require.Equal(t, "ok", r.do(writes, "acquire 0", "0 "+link))
	require.Equal(t, "ok", r.do(writes, "detach", "0 "+plain))
	require.Equal(t, 2, r.held(writes))
	gone := r.guest(uuidB, "db")
	require.Equal(t, "ok", r.do(writes, "release", "0 "+plain, "0 "+link))
	require.Equal(t, "ok", r.do(gone, "acquire 0", "0 "+plain))
	require.Equal(t, "ok", r.do(gone, "acquire 0", "0 "+link))
	require.Equal(t, "ok", r.do(gone, "detach", "0 "+link))
	require.Empty(t, r.locks(), "the name that both have, too")
}

// The image that a guest reads below a transient disk is locked shared.
func TestTransient(t *testing.T) {
	r := start(t, "")
	d := images(t)
	base := d + "/img/a.img"
	overlay := func(name string) string {
		path := base + ".TRANSIENT-" + name
		require.NoError(t, os.WriteFile(path, nil, 0o644))
		return path
	}
	web := r.guestWith(uuidA, "web", overlay("web"), os.O_RDWR)
	db, plain := r.guestWith(uuidB, "db", overlay("db"), os.O_RDWR), r.guest(uuidB, "plain")
	top := base + ".TRANSIENT-web"
	both := []string{"web: " + top + " EX", "web: " + top + " PR"}
	require.Equal(t, "ok", r.do(web, "acquire 0", "0 "+top))
	require.Equal(t, both, r.locks())
	require.Equal(t, "ok", r.do(web, "detach", "0 "+base), "as libvirt does when it has put the overlay on it")
	require.ElementsMatch(t, both, r.locks())
	r.refused(plain, "0 "+base, "web: "+top)
	r.refused(plain, "0 "+d+"/img/link.img", "web: "+top)
	require.Equal(t, "ok", r.do(db, "acquire 0", "0 "+base+".TRANSIENT-db"), "both only read it")
	require.Equal(t, "ok", r.do(db, "release", "0 "+base+".TRANSIENT-db"))
	require.Equal(t, "ok", r.do(web, "release", "0 "+top))
	require.Empty(t, r.locks())

	// Attached to a guest that runs: the base is the disk first.
	require.Equal(t, "ok", r.do(web, "acquire 0", "0 "+base))
	require.Equal(t, "ok", r.do(web, "acquire 0", "0 "+top))
	require.Equal(t, []string{"web: " + base + " EX", "web: " + top + " EX"}, r.locks())
	require.Equal(t, "ok", r.do(web, "detach", "0 "+base))
	require.Equal(t, both, r.locks())
	require.Equal(t, "ok", r.do(plain, "acquire 0", "0 "+base+".TRANSIENT-other"),
		"not this guest's name: a file as any other")
	require.Equal(t, "ok", r.do(plain, "release", "0 "+base+".TRANSIENT-other"))
	web.kill()
	require.Eventually(t, func() bool { return len(r.locks()) == 0 }, patience, time.Millisecond)
}

// A mount that is made while the driver runs is noticed at once.
func TestMountsChange(t *testing.T) {
	r := start(t, "")
	d := images(t)
	r.startDriverApart("tmpfs", d+"/far", "")
	r.ok("init %s", r.write("qemu-dlmlock.conf", r.reach(overVarlink)))
	in := fmt.Sprintf("--mount=/proc/%d/ns/mnt", r.driver.Process.Pid)
	run := func(args ...string) {
		out, err := exec.Command("nsenter", append([]string{in}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	run("touch", d+"/far/x.img", d+"/far/y.img")
	a, b := r.guest(uuidA, "web"), r.guest(uuidB, "db")
	for range 3 {
		require.Equal(t, "ok", r.do(a, "acquire 0", "0 "+d+"/far/x.img"))
		require.Equal(t, 1, r.held(a), "one lock")
		run("mount", "--bind", d+"/far", d+"/img")
		r.refused(b, "0 "+d+"/img/x.img", "web: ")
		require.Equal(t, "ok", r.do(b, "acquire 0", "0 "+d+"/far/y.img"))
		require.Equal(t, 2, r.held(b))
		run("umount", d+"/img")
		require.Equal(t, "ok", r.do(b, "release", "0 "+d+"/far/y.img"))
		require.Equal(t, "ok", r.do(a, "release", "0 "+d+"/far/x.img"))
		require.Empty(t, r.locks())
	}
}

// A file server that does not answer holds up nobody longer than the timeout. Then a guest does not
// run; one that is paused releases what it has.
func TestStorageHangs(t *testing.T) {
	r := start(t, "")
	dir := t.TempDir()
	g := r.guest(uuidA, "web")
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	require.NoError(t, err)
	r.startDriverApart("fuse", dir, "fd=3,rootmode=40000,user_id=0,group_id=0", fuse)
	t.Cleanup(func() { fuse.Close() }) // which ends the wait of the threads
	r.ok("init %s", r.write("qemu-dlmlock.conf", r.reach(overVarlink)+"timeout = 1\n"))

	began := time.Now()
	answer := r.do(g, "acquire 0", "0 "+dir+"/a.img")
	require.True(t, strings.HasPrefix(answer, failed), answer)
	require.Contains(t, answer, "storage has not answered for 1 s")
	t.Logf("given up after %v", time.Since(began).Round(time.Millisecond))
	r.acquireFor(g, "any", dir+"/a.img")
	require.Equal(t, "ok", r.do(g, "release", "0 "+dir+"/a.img"))
	require.Empty(t, r.locks())
}

// A guest's process that can't be examined has not ended: its locks stay, and libvirt gets an
// error.
func TestProcessCantBeLookedAt(t *testing.T) {
	r := start(t, "on_service_missing = \"allow\"\n")
	g := r.guest(uuidA, "web")
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	r.ok("new 5 %s %s %d", g.uuid, g.name, g.pid)
	r.ok("disk 5 0 /img/a")
	var old unix.Rlimit
	require.NoError(t, unix.Prlimit(r.driver.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: 4096}, &old))
	for _, verb := range []string{"release 5", "acquire 5 0"} {
		answer := r.say("%s", verb)
		require.True(t, strings.HasPrefix(answer, failed), "%s: %s", verb, answer)
		require.Contains(t, answer, "can't be examined")
		require.Contains(t, answer, "Too many open files")
	}
	require.NoError(t, unix.Prlimit(r.driver.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 4096, Max: 4096}, nil))
	require.Len(t, r.locks(), 1)
	r.ok("release 5")
	r.ok("free 5")
	require.Empty(t, r.locks())
}

// The helper for lost locks takes a guest that it can't examine for one that is running.
func TestLostHelperCantLook(t *testing.T) {
	for what, program := range map[string]string{"cat": "exit 1", "tr": "exit 1"} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(dir+"/"+what, []byte("#!/bin/sh\n"+program+"\n"), 0o755))
		guest := exec.Command("sleep", "infinity")
		require.NoError(t, guest.Start())
		helper := exec.Command("timeout", "2", root+"/libvirt/lost/libvirt-lost")
		helper.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "DLM_DATA=pause qemu:///system",
			fmt.Sprintf("DLM_OWNER=%s/%d/%s", uuidA, guest.Process.Pid, startTime(t, guest.Process.Pid)))
		out, err := helper.CombinedOutput()
		require.Error(t, err, "%s", out)
		require.NotContains(t, string(out), "has ended", what)
		require.NoError(t, guest.Process.Kill())
		_ = guest.Wait()
	}
}

// The service learns which process is meant, so a number that means a different one there is
// refused.
func TestStartTimeIsSent(t *testing.T) {
	r := startBy(t, overDBus, "")
	g := r.guest(uuidA, "web")
	monitor := r.bus.Dial(t)
	seen := make(chan *godbus.Message, 100)
	rule := "type='method_call',interface='org.example.DlmLock',member='AcquireMany'"
	call := monitor.BusObject().Call("org.freedesktop.DBus.Monitoring.BecomeMonitor", 0, []string{rule}, uint32(0))
	require.NoError(t, call.Err)
	monitor.Eavesdrop(seen)
	require.Equal(t, "ok", r.do(g, "acquire 0", "0 /img/a"))
	for {
		select {
		case m := <-seen:
			if len(m.Body) != 2 {
				continue // what the bus says to the monitor
			}
			options := m.Body[1].(map[string]godbus.Variant)
			require.Equal(t, uint32(g.pid), options["pid"].Value())
			require.Equal(t, startTime(t, g.pid), fmt.Sprint(options["start-time"].Value()))
			return
		case <-time.After(patience):
			t.Fatal("no call")
		}
	}
}
