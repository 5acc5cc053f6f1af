package bench

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/state"
)

// envOther names a second daemon, built from another commit for example, with which the one that is
// measured takes turns.
const envOther = "BENCH_OTHER_DLMLOCKD"

// recordedLock is a lock as a hypervisor would have it. Its names are longer than those of the other
// benchmarks: 113 bytes of text, none of which two locks have in common.
func recordedLock(i int) state.Lock {
	return state.Lock{
		ID: uint64(i) + 1, Lockspace: space, Resource: fmt.Sprintf("pool0/volume-%08d", i), LockID: dlm.LockID(i) + 2,
		Mode: dlm.EX, Phase: state.Granted, Token: 1795716509042224 + uint64(i),
		Owner: fmt.Sprintf("1b4e28ba-2fa1-11d2-883f-%012d", i), HasOwner: true,
		Label: fmt.Sprintf("/var/lib/libvirt/images/volume-%08d.qcow2", i), UID: 0, PID: 4711, Session: ":1.42",
		SessionBus: "d8506a40a1288a003cccf1bc6b03696e", Since: time.Unix(1795716509, int64(i)*1000),
	}
}

// record leaves the state file of a service that holds n locks and was killed.
func record(tb testing.TB, dir string, n int) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(tb, err)
	f, _, err := state.Open(dir, state.Options{
		Header: state.Header{BootID: strings.TrimSpace(string(boot)), NodeID: 1, Engine: "local"},
		Log:    slog.New(slog.DiscardHandler), CompactMin: 1 << 40,
	})
	must(tb, err)
	must(tb, f.Append([]state.Change{state.Lockspace{Name: space, Phase: state.Joined, AnchorID: 1}}))
	for i := range n {
		l := recordedLock(i)
		must(tb, f.Append([]state.Change{l, state.Mark{ID: l.ID, Phase: state.Held}}))
	}
	must(tb, f.Close())
}

// alone starts a daemon that serves Varlink only, so that no message bus is part of the time, and
// returns how long it took from the exec to READY=1.
func (s *site) alone(tb testing.TB, daemon string) started {
	notify := filepath.Join(s.dir, "notify")
	_ = os.Remove(notify)
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	must(tb, err)
	defer func() { _ = conn.Close() }()
	must(tb, conn.SetReadDeadline(time.Now().Add(time.Minute)))
	s.cmd = s.run(daemon, []string{"NOTIFY_SOCKET=" + notify}, "--engine=local", "--bus=none",
		"--state-dir="+filepath.Join(s.dir, "state"), "--config="+filepath.Join(s.dir, "c.toml"), "--log-level=error",
		"--varlink="+s.varlinkSocket())
	began := time.Now()
	must(tb, s.cmd.Start())
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		must(tb, err)
		if strings.HasPrefix(string(buf[:n]), "READY=1") {
			return started{time.Since(began), s.processorTime(tb), 0}
		}
	}
}

// processorTime is what the daemon has used so far, in all of its threads (proc(5), schedstat).
func (s *site) processorTime(tb testing.TB) (d time.Duration) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.cmd.Process.Pid))
	must(tb, err)
	for _, t := range tasks {
		text, err := os.ReadFile(t)
		must(tb, err)
		var ns int64
		_, err = fmt.Sscan(string(text), &ns)
		must(tb, err)
		d += time.Duration(ns)
	}
	return d
}

// started is what a start has taken.
type started struct {
	took, processor time.Duration
	resident        int // bytes, a second later
}

// middle are the medians of several starts.
func middle(in []started) started {
	var took, processor, memory []int
	for _, s := range in {
		took, processor, memory = append(took, int(s.took)), append(processor, int(s.processor)), append(memory, s.resident)
	}
	at := func(x []int) int { slices.Sort(x); return x[len(x)/2] }
	return started{time.Duration(at(took)), time.Duration(at(processor)), at(memory)}
}

// BenchmarkActivation starts the daemon on the records of 100,000 locks, and on those of 100, and
// tells how much memory each lock takes in the process a second later, lock manager, table and
// state file together.
func BenchmarkActivation(b *testing.B) {
	daemons := []string{daemonPath(b)}
	if other := os.Getenv(envOther); other != "" {
		daemons = append(daemons, other)
	}
	var sites [2]*site
	for i, n := range []int{few, lots} {
		sites[i] = bareSite(b)
		record(b, filepath.Join(sites[i].dir, "state"), n)
	}
	const rounds = 5
	starts := make([][2][]started, len(daemons))
	for range rounds {
		for d, path := range daemons {
			for i, s := range sites {
				st := s.alone(b, path)
				time.Sleep(time.Second)
				st.resident = resident(b, s)
				starts[d][i] = append(starts[d][i], st)
				s.kill()
			}
		}
	}
	for d, path := range daemons {
		by := ""
		if d > 0 {
			by = " (" + path + ")"
		}
		none, many := middle(starts[d][0]), middle(starts[d][1])
		perLock := (many.resident - none.resident) / (lots - few)
		b.ReportMetric(many.took.Seconds(), fmt.Sprintf("s-activation-%d", d))
		b.ReportMetric(many.processor.Seconds(), fmt.Sprintf("s-processor-%d", d))
		b.ReportMetric(float64(perLock), fmt.Sprintf("resident-B/lock-%d", d))
		seconds := func(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
		add(line{"activation of 100,000 locks, from exec to READY=1" + by, seconds(many.took), seconds(none.took) +
			" (100 locks)", "", "at most 0.3 s"})
		add(line{"processor time of that" + by, seconds(many.processor), seconds(none.processor) + " (100 locks)", "", ""})
		add(line{"resident memory of the daemon for each of them" + by, fmt.Sprintf("%d bytes", perLock), "", "",
			"at most 800 bytes"})
	}
}

// bareSite is a site without a bus.
func bareSite(tb testing.TB) *site {
	dir, err := os.MkdirTemp("/dev/shm", "dlmlockd-bench") // a tmpfs, as /run is
	must(tb, err)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(tb, os.WriteFile(filepath.Join(dir, "c.toml"),
		[]byte("[limits]\nlocks-per-uid = 1000000\nlocks-per-call = 10000\n"), 0o600))
	return &site{dir: dir}
}
