package host_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/libvirt/host"
)

var update = flag.Bool("update", false, "record what libvirtd says to virtlockd anew, with the libvirt that is "+
	"installed")

// recorded is the file with what a release of libvirtd with its own lock driver has
// said to its virtlockd, and what that has answered. Package virtlockd holds the service
// against it.
func recorded(release string) string {
	return root + "/virtlockd/testdata/libvirtd-" + release + ".golden"
}

// release is that of the libvirt which is used, such as "9.0.0".
func release(t *testing.T) string {
	cmd := inRoot("libvirtd", "--version")
	out, err := cmd.Output()
	require.NoError(t, err, cmd)
	fields := strings.Fields(string(out))
	return fields[len(fields)-1]
}

// inRoot is a command in the root file system of the libvirt which is used.
func inRoot(argv ...string) *exec.Cmd {
	if built.root != "" {
		argv = append([]string{"chroot", built.root}, argv...)
	}
	return exec.Command(argv[0], argv[1:]...)
}

// recorder stands between libvirtd and what serves its lock driver.
type recorder struct {
	t     *testing.T
	to    string // the socket of that
	mu    sync.Mutex
	said  [][]byte   // of each connection, in order of their first message
	want  [][]string // the requests of the steps that are still to come; nil: they are not known
	story strings.Builder
	work  sync.WaitGroup
}

// record listens at a socket and passes everything on.
func record(t *testing.T, at, to string) *recorder {
	r := &recorder{t: t, to: to}
	l, err := net.Listen("unix", at)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			r.work.Go(func() { r.pass(from) })
		}
	}()
	return r
}

// pass passes messages on, each with its answer before the next one.
func (r *recorder) pass(from net.Conn) {
	defer from.Close()
	to, err := net.Dial("unix", r.to)
	if err != nil {
		return
	}
	defer to.Close()
	n := -1
	for {
		request, err := frame(from)
		if err != nil {
			return
		}
		if _, err := to.Write(request); err != nil {
			return
		}
		answer, err := frame(to)
		if err != nil {
			return
		}
		r.mu.Lock()
		if n < 0 {
			n = len(r.said)
			r.said = append(r.said, nil)
		}
		r.said[n] = fmt.Appendf(r.said[n], "> %x\n< %x\n", maskPID(request), answer)
		r.mu.Unlock()
		if _, err := from.Write(answer); err != nil {
			return
		}
	}
}

// frame reads a message with its length.
func frame(from io.Reader) ([]byte, error) {
	head := make([]byte, 4)
	if _, err := io.ReadFull(from, head); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size < 28 || size > 1<<20 {
		return nil, errors.New("no message")
	}
	b := append(head, make([]byte, size-4)...)
	_, err := io.ReadFull(from, b[4:])
	return b, err
}

// maskPID puts a mark in the place of the pid in a REGISTER.
func maskPID(request []byte) []byte {
	const name = 28 + 16
	if binary.BigEndian.Uint32(request[12:]) != 1 {
		return request
	}
	masked := bytes.Clone(request)
	n := binary.BigEndian.Uint32(masked[name:])
	pid := name + 4 + (n+3)/4*4 + 4
	binary.BigEndian.PutUint32(masked[pid:], 0x6d000001)
	return masked
}

// step notes what has been said during a step of the story.
func (r *recorder) step(name string, do func()) {
	do()
	r.await()
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(&r.story, "\n## %s\n", name)
	for i, said := range r.said {
		fmt.Fprintf(&r.story, "%c libvirtd\n%s", 'A'+i, said)
	}
	r.said = nil
}

// await waits for messages from another thread of libvirtd, which may come a moment later: until all
// messages of the recording have come or, without a recording, until none has come for a while.
func (r *recorder) await() {
	soFar := func() []string {
		r.mu.Lock()
		defer r.mu.Unlock()
		return requests(string(bytes.Join(r.said, nil)))
	}
	end := time.Now().Add(patience)
	if len(r.want) > 0 {
		for !slices.Equal(soFar(), r.want[0]) && time.Now().Before(end) {
			time.Sleep(5 * time.Millisecond)
		}
		r.want = r.want[1:]
		return
	}
	for last := -1; last != len(soFar()) && time.Now().Before(end); time.Sleep(time.Second) {
		last = len(soFar())
	}
}

// fixed is where the disks of the story are: their paths are in the recording.
const fixed = "/dev/shm/virtlockd-golden"

// TestStockSays has libvirtd say what it says to its lock daemon, and holds that
// against the recording of its release, which was made in front of the real virtlockd.
func TestStockSays(t *testing.T) {
	r := startWith(t, stock, fmt.Sprintf("[virtlockd.lockspaces]\n%q = \"libvirt\"\n", fixed+"/files"))
	_ = os.RemoveAll(fixed)
	require.NoError(t, os.MkdirAll(fixed+"/files", 0o755))
	t.Cleanup(func() { _ = os.RemoveAll(fixed) })
	to := r.virtlockd()
	if *update {
		to, _ = realVirtlockd(t)
	}
	at := filepath.Join(r.dir, "recorder")
	rec := record(t, at, to)
	version := release(t)
	if !*update {
		want, err := os.ReadFile(recorded(version))
		require.NoError(t, err)
		rec.want = requestsOfSteps(string(want))
	}
	rec.play(r, at)
	text := "# What libvirtd " + version + " says to virtlockd, and is answered; recorded with\n" +
		"# \"LIBVIRT=1 go test ./libvirt/host -run TestStockSays -update\".\n" + rec.story.String()
	if *update {
		require.NoError(t, os.WriteFile(recorded(version), []byte(text), 0o644))
	}
	want, err := os.ReadFile(recorded(version))
	require.NoError(t, err)
	require.Equal(t, requests(string(want)), requests(text))
}

// requests are what was said, without what was answered.
func requests(recording string) (lines []string) {
	for line := range strings.Lines(recording) {
		if strings.HasPrefix(line, ">") || strings.HasPrefix(line, "##") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// requestsOfSteps returns the requests of each step of a recording.
func requestsOfSteps(recording string) (steps [][]string) {
	for _, line := range requests(recording) {
		if strings.HasPrefix(line, "##") {
			steps = append(steps, nil)
		} else {
			steps[len(steps)-1] = append(steps[len(steps)-1], line)
		}
	}
	return steps
}

// play is the story: what a guest does in its life.
func (rec *recorder) play(r *rig, at string) {
	for _, name := range []string{"a.img", "b.img", "c.img"} {
		require.NoError(r.t, host.WriteImage(filepath.Join(fixed, name)))
	}
	start := func(name, lockd string) (h *machine) {
		rec.step("libvirtd starts: "+name, func() {
			h = r.stockHostAt(at, name, lockd)
		})
		return h
	}
	h := start("direct", "auto_disk_leases = 1\n")
	disk := r.file("disk", host.Disk{Path: fixed + "/b.img", SCSI: true}.XML(1))
	h.define("web", host.Disk{Path: fixed + "/a.img"}, host.Disk{Path: fixed + "/c.img", Shareable: true})
	rec.step("start", func() { h.virsh("start", "web") })
	rec.step("attach a disk", func() { h.virsh("attach-device", "web", disk) })
	rec.step("detach it", func() { h.virsh("detach-device", "web", disk) })
	rec.step("destroy", func() { h.virsh("destroy", "web") })
	h = start("files", fmt.Sprintf("file_lockspace_dir = %q\n", fixed+"/files"))
	h.define("web", host.Disk{Path: fixed + "/a.img"})
	rec.step("start with a lockspace directory", func() { h.virsh("start", "web") })
	rec.step("destroy", func() { h.virsh("destroy", "web") })
}

// realVirtlockd starts virtlockd in a mount namespace of its own.
func realVirtlockd(t testing.TB) (socket string, cmd *exec.Cmd) {
	virtlockd := inRoot("virtlockd", "--config", "/dev/null", "--pid-file", "/run/virtlockd.pid")
	cmd = exec.Command("unshare", append([]string{"--mount", "sh", "-ec", `mount -t tmpfs tmpfs /run
[ -z "$0" ] || for dir in dev proc sys run tmp; do mount --rbind /$dir "$0/$dir"; done
exec "$@"`, built.root}, virtlockd.Args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	socket = fmt.Sprintf("/proc/%d/root/run/libvirt/virtlockd-sock", cmd.Process.Pid)
	require.Eventually(t, func() bool {
		c, err := net.Dial("unix", socket)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, patience, 5*time.Millisecond, "virtlockd")
	return socket, cmd
}
