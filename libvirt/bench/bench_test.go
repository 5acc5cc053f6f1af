package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/benchreport"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

const (
	root     = "../.."
	patience = 20 * time.Second
	rounds   = 7
	turn     = "1" // seconds
)

// subject is a lock driver with what is behind it.
type subject struct {
	name    string
	command []string // up to "bench"
	env     []string
	config  string   // of the driver
	preload []string // what a driver must find in the process
	servers string   // in the command lines of the processes that serve it
}

// sample is what one turn has brought: pairs a second, microseconds of an
// Acquire, and of processor time for each pair.
type sample struct{ pairs, p50, p99, most, cpu float64 }

// run makes count workers with so many disks each work for a turn; with "die" a further guest dies
// ten times a second meanwhile.
func (s *subject) run(b *testing.B, count, disks int, how string) sample {
	b.Helper()
	args := slices.Concat(s.command, []string{"bench", s.config, strconv.Itoa(count), strconv.Itoa(disks), how},
		s.preload)
	if slices.Contains(s.command, "raw") {
		args = slices.Concat(s.command, []string{s.config, strconv.Itoa(count), how})
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), s.env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	before := s.serverTime(b)
	out, err := cmd.Output()
	require.NoError(b, err, "%v: %s", args, &stderr)
	used := s.serverTime(b) - before + cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	var v sample
	_, err = fmt.Sscan(string(out), &v.pairs, &v.p50, &v.p99, &v.most)
	require.NoError(b, err, "%v: %s%s", args, out, &stderr)
	seconds, err := strconv.ParseFloat(how, 64)
	if err != nil {
		seconds = 2 // how long "die" takes
	}
	v.cpu = float64(used.Microseconds()) / (v.pairs * seconds)
	return v
}

// serverTime is the processor time that the serving processes and their children
// have used.
func (s *subject) serverTime(b *testing.B) time.Duration {
	b.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(b, err)
	serving := map[string]bool{}
	var total time.Duration
	for range 2 { // children may come first
		total = 0
		for _, dir := range dirs {
			line, _ := os.ReadFile(dir + "/cmdline")
			stat, err := os.ReadFile(dir + "/stat")
			fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
			if err != nil || len(fields) < 15 || !strings.Contains(string(line), s.servers) && !serving[fields[1]] {
				continue
			}
			serving[filepath.Base(dir)] = true
			for _, f := range fields[11:13] {
				ticks, err := strconv.Atoi(f)
				require.NoError(b, err)
				total += time.Duration(ticks) * time.Second / 100
			}
		}
	}
	return total
}

// overVarlink is dlmlock.so with dlmlockd over Varlink. There is no bus that the driver could reach.
func overVarlink(b *testing.B) *subject {
	s := service(b, testbus.Daemon, "dlmlockd, Varlink")
	dir := filepath.Dir(s.config)
	s.config = dir + "/varlink.conf"
	write(b, s.config, fmt.Sprintf("transport = \"varlink\"\nvarlink_socket = %q\n", dir+"/varlink"))
	s.env = []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + dir + "/none"}
	return s
}

// service is dlmlock.so with dlmlockd on a bus of its own.
func service(b *testing.B, kind testbus.Kind, name string) *subject {
	bus := testbus.Start(b, kind)
	dir, err := os.MkdirTemp("/dev/shm", "dlmlockd-bench") // a tmpfs, as /run is
	require.NoError(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	write(b, dir+"/dlmlockd.toml", "engine = \"local\"\nlockspaces = [\"libvirt\"]\nlog-level = \"error\"\n")
	launch(b, exec.Command(abs(b, "bin/dlmlockd"), "--bus="+bus.Address, "--config="+dir+"/dlmlockd.toml",
		"--state-dir="+dir+"/state",
		"--virtlockd="+dir+"/virtlockd-sock", "--varlink="+dir+"/varlink"))
	watch := bus.Dial(b)
	require.Eventually(b, func() bool {
		var has bool
		return watch.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0,
			"org.example.DlmLock").Store(&has) == nil && has
	}, patience, 5*time.Millisecond, "dlmlockd")
	require.NoError(b, watch.Close())
	write(b, dir+"/dbus.conf", "transport = \"dbus\"\n")
	return &subject{name: name, command: []string{abs(b, "bin/lockdriver"), abs(b, "bin/dlmlock.so")},
		config: dir + "/dbus.conf",
		env:    []string{"DBUS_SYSTEM_BUS_ADDRESS=" + bus.Address}, servers: bus.Dir}
}

// stock is libvirt's own lock driver with dlmlockd in the place of virtlockd.
func stock(b *testing.B) *subject {
	s := service(b, testbus.Daemon, "lockd.so, dlmlockd")
	dir := filepath.Dir(s.config)
	s.config = dir + "/lockd.conf"
	write(b, s.config, "auto_disk_leases = 1\n")
	// The driver has the path of its socket compiled in.
	s.command = []string{"unshare", "--mount", "sh", "-c", "mkdir -p /run/libvirt && mount -t tmpfs tmpfs " +
		"/run/libvirt && " +
		"ln -s " + dir + "/virtlockd-sock /run/libvirt && exec \"$@\"", "sh", abs(b, "bin/lockdriver"), lockdriver(b)}
	s.preload = []string{"libvirt.so.0"}
	return s
}

// lockdriver is libvirt's own lock driver.
func lockdriver(b *testing.B) string {
	lockd, err := filepath.Glob("/usr/lib*/*/libvirt/lock-driver/lockd.so")
	require.NoError(b, err)
	require.NotEmpty(b, lockd, "lockd.so of the package libvirt-daemon")
	return lockd[0]
}

// virtlockd is libvirt's own lock driver with virtlockd, in a mount namespace of
// its own, so that it does not meet one that runs on this machine.
func virtlockd(b *testing.B) *subject {
	dir, err := os.MkdirTemp("/dev/shm", "virtlockd-bench")
	require.NoError(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	write(b, dir+"/lockd.conf", fmt.Sprintf("auto_disk_leases = 1\nfile_lockspace_dir = %q\n", dir+"/files"))
	write(b, dir+"/virtlockd.conf", "log_level = 4\nmax_clients = 1024\n")
	require.NoError(b, os.Mkdir(dir+"/files", 0o700))
	d := exec.Command("unshare", "--mount", "sh", "-c",
		"mkdir -p /run/libvirt && mount -t tmpfs tmpfs /run/libvirt && exec virtlockd --config "+
			dir+"/virtlockd.conf --pid-file "+dir+"/pid")
	launch(b, d)
	inside := "/proc/" + strconv.Itoa(d.Process.Pid)
	require.Eventually(b, func() bool {
		_, err := os.Stat(inside + "/root/run/libvirt/virtlockd-sock")
		return err == nil
	}, patience, 5*time.Millisecond, "virtlockd")
	return &subject{name: "virtlockd", command: []string{"nsenter", "--mount=" + inside + "/ns/mnt",
		abs(b, "bin/lockdriver"), lockdriver(b)},
		config: dir + "/lockd.conf", preload: []string{"libvirt.so.0"}, servers: dir}
}

func launch(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func write(b *testing.B, path, text string) {
	b.Helper()
	require.NoError(b, os.WriteFile(path, []byte(text), 0o600))
}

func abs(b *testing.B, path string) string {
	b.Helper()
	p, err := filepath.Abs(filepath.Join(root, path))
	require.NoError(b, err)
	require.FileExists(b, p, "make bench-libvirt builds it")
	return p
}

// medians has the subjects take turns, and returns the median of each number of
// each.
func medians(b *testing.B, subjects []*subject, count, disks int, how string) []sample {
	all := make([][]sample, len(subjects))
	for range rounds {
		for i, s := range subjects {
			all[i] = append(all[i], s.run(b, count, disks, how))
		}
	}
	out := make([]sample, len(subjects))
	for i := range out {
		mid := func(get func(sample) float64) float64 {
			var v []float64
			for _, s := range all[i] {
				v = append(v, get(s))
			}
			slices.Sort(v)
			return v[len(v)/2]
		}
		out[i] = sample{mid(func(s sample) float64 { return s.pairs }), mid(func(s sample) float64 { return s.p50 }),
			mid(func(s sample) float64 { return s.p99 }), mid(func(s sample) float64 { return s.most }),
			mid(func(s sample) float64 { return s.cpu })}
	}
	return out
}

// BenchmarkSideBySide writes the tables.
func BenchmarkSideBySide(b *testing.B) {
	runtime.GOMAXPROCS(1)
	subjects := []*subject{virtlockd(b), overVarlink(b), stock(b), service(b, testbus.Daemon, "dlmlockd, dbus-daemon"),
		service(b, testbus.Broker, "dlmlockd, dbus-broker")}
	var t strings.Builder
	t.WriteString("| workers | disks | | pairs/s | to virtlockd | p50 | p99 | processor time |\n| --- | --- | --- | " +
		"--- | --- | --- | --- | --- |\n")
	for _, disks := range []int{1, 4} {
		for _, workers := range []int{1, 4, 8} {
			m := medians(b, subjects, workers, disks, turn)
			for i, s := range subjects {
				fmt.Fprintf(&t, "| %d | %d | %s | %.0f | %.2f | %.0f us | %.0f us | %.0f us |\n", workers, disks,
					s.name,
					m[i].pairs, m[i].pairs/m[0].pairs, m[i].p50, m[i].p99, m[i].cpu)
			}
		}
	}
	t.WriteString("\nFour workers with a disk each, while another guest with a lock dies ten times a second:\n\n" +
		"| | pairs/s | p50 | p99 | longest |\n| --- | --- | --- | --- | --- |\n")
	for i, m := range medians(b, subjects, 4, 1, "die") {
		fmt.Fprintf(&t, "| %s | %.0f | %.0f us | %.0f us | %.1f ms |\n", subjects[i].name, m.pairs, m.p50, m.p99,
			m.most/1000)
	}
	raw(b, &t, subjects[0], subjects[1])
	fmt.Print("\n", t.String())
	if path := os.Getenv("BENCH_REPORT"); path != "" {
		require.NoError(b, benchreport.Write(path, "bench-libvirt", machine()+"\n"+t.String()))
	}
}

// raw compares the protocols themselves: a client that keeps its connection, without a lock driver.
func raw(b *testing.B, t *strings.Builder, virtlockd, varlink *subject) {
	dir := filepath.Dir(varlink.config)
	inside := append(slices.Clone(virtlockd.command[:2]), abs(b, "bin/lockdriver"), "raw", "/run/libvirt/virtlockd-sock")
	direct := []*subject{
		{name: "virtlockd, by path", command: inside, config: "virtlockd", servers: virtlockd.servers},
		{name: "virtlockd, file_lockspace_dir", command: inside, config: "virtlockd=" + virtlockd.servers + "/files",
			servers: virtlockd.servers},
		{name: "Varlink", command: []string{abs(b, "bin/lockdriver"), "raw", dir + "/varlink"}, config: "varlink",
			servers: varlink.servers},
	}
	t.WriteString("\nThe protocols alone, each worker with a connection that it keeps, one Acquire and one Release of " +
		"a\nlock:\n\n| workers | | pairs/s | to virtlockd | p50 | p99 | processor time |\n" +
		"| --- | --- | --- | --- | --- | --- | --- |\n")
	for _, workers := range []int{1, 4, 8} {
		m := medians(b, direct, workers, 1, turn)
		for i, s := range direct {
			fmt.Fprintf(t, "| %d | %s | %.0f | %.2f | %.0f us | %.0f us | %.0f us |\n", workers, s.name, m[i].pairs,
				m[i].pairs/m[0].pairs, m[i].p50, m[i].p99, m[i].cpu)
		}
	}
}

// machine names libvirt's release too.
func machine() string {
	release, _ := exec.Command("virtlockd", "--version").Output()
	return benchreport.Machine(strings.TrimSpace(string(release)))
}
