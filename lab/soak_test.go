package lab_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/logbook"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// TestSoak (make soak) runs clients on the nodes for as long as one likes, with faults of
// all kinds (soakFaults), and judges the answers that they get. The clients are programs
// on the nodes (lab/cmd/soaker), and record what they do in memory that this machine
// shares with the nodes (package logbook). A run consists of slices, each of which ends
// in a quiet point, where nobody holds anything. Each slice is a line in soak.jsonl; a
// new run adds to the lines that are there.
func TestSoak(t *testing.T) {
	lab.Require(t)
	until, text := soakGoal(t)
	for _, kernel := range seriesToTest() {
		t.Run(kernel, func(t *testing.T) {
			s := newSoak(t, kernel)
			t.Logf("%s, until %s; %s has the slices so far", kernel, text, s.report)
			for slice := 0; !until(s); slice++ {
				s.slice(t)
			}
		})
	}
}

// soakGoal reads SOAK (a time) or SOAK_OPS (a number of operations in all runs on a kernel).
func soakGoal(t *testing.T) (func(*soak) bool, string) {
	if text := os.Getenv("SOAK_OPS"); text != "" {
		ops, err := strconv.Atoi(text)
		require.NoError(t, err, "SOAK_OPS")
		return func(s *soak) bool { return s.total.Ops >= ops }, text + " operations"
	}
	text := os.Getenv("SOAK")
	if text == "" {
		t.Skip("set SOAK=1h or SOAK_OPS=1000000, or run make soak")
	}
	d, err := time.ParseDuration(text)
	require.NoError(t, err, "SOAK")
	return func(s *soak) bool { return time.Since(s.began) >= d }, text
}

const (
	soakSpace     = "vms"
	soakState     = service.StateDir
	soakStateSize = "8m"
	soakFill      = soakState + "/fill"
	soakResources = 32
	quietTime     = 2 * time.Minute
)

// sliceTime is how long the clients work in a slice, apart from the time that its last
// fault takes: SOAK_SLICE, or a minute.
var sliceTime = sync.OnceValue(func() time.Duration {
	text := os.Getenv("SOAK_SLICE")
	if text == "" {
		return time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic("SOAK_SLICE: " + err.Error())
	}
	return d
})

// soakNodes is how many nodes there are: SOAK_NODES, or three.
func soakNodes(t *testing.T) int {
	text := os.Getenv("SOAK_NODES")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, "SOAK_NODES")
	require.True(t, n >= 3 && n <= 5, "SOAK_NODES: from 3, which outvote one that is cut off, to 5")
	return n
}

type soak struct {
	t      *testing.T // of the slice
	rig    *serviceRig
	kernel string
	report string // path of soak.jsonl
	total  sliceReport
	began  time.Time // when the nodes were up
	rand   *rand.Rand
	faults []fault
	// other is a build of the daemon that nodes change to and back, and runsOther says
	// which nodes run it.
	other     string
	runsOther map[int]bool

	done    []sawFault // in the slice
	unused  int        // how many resources were named that nobody had used
	logbook *logbook.Logbook
	soakers []*soaker
}

func newSoak(t *testing.T, kernel string) *soak {
	programs := buildSoakPrograms(t)
	path := filepath.Join(t.TempDir(), "logbook")
	l, err := logbook.Create(path)
	require.NoError(t, err)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		l.Run(stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
		require.NoError(t, l.Close())
	})
	s := &soak{t: t, kernel: kernel, logbook: l, other: programs.other, runsOther: map[int]bool{},
		rig: newServiceRig(t, lab.Config{Kernel: kernel, Nodes: soakNodes(t), Fencing: true, SharedMemory: path})}
	s.faults = chosenFaults(t, s.other != "")
	s.report = filepath.Join(filepath.Dir(s.rig.cluster.Artefacts()), "soak.jsonl")
	s.total = sliceReport{Kernel: kernel, Faults: map[string]int{}}
	require.NoError(t, s.readReport())
	ctx := lab.Context(t, "start", 2*commandTime)
	number := 0
	for _, n := range s.rig.cluster.Nodes() {
		for _, clients := range soakProcesses {
			k := &soaker{soak: s, programs: programs, node: n, pages: map[int]soakClient{}}
			for _, c := range clients {
				k.pages[number] = c
				k.order = append(k.order, number)
				s.logbook.Page(number).Give(logbook.Finish)
				number++
			}
			s.soakers = append(s.soakers, k)
		}
		require.NoError(t, s.prepare(ctx, n))
		require.NoError(t, s.start(ctx, n))
		require.NoError(t, s.startClients(ctx, n))
	}
	s.began = time.Now()
	return s
}

// prepare installs the clients on a node that was booted, and a state directory that can
// become full.
func (s *soak) prepare(ctx context.Context, n *lab.Node) error {
	if err := s.soakers[0].programs.push(ctx, n); err != nil {
		return err
	}
	s.runsOther[n.ID] = false
	_, err := n.Shell(ctx, fmt.Sprintf("mkdir -p /run/dlmlock /run/libvirt && mkdir -p -m 700 %[1]s && "+
		"mountpoint -q %[1]s || mount -t tmpfs -o mode=700,size=%[2]s soak %[1]s", soakState, soakStateSize))
	return err
}

// slice runs one slice: it injects one fault after the other until the quiet point, and
// judges the history.
func (s *soak) slice(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SOAK_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "SOAK_SEED")
	}
	s.t, s.rand = t, rand.New(rand.NewPCG(seed, 0))
	begin := time.Now()
	r := sliceReport{Time: begin.UTC().Format(time.RFC3339), Kernel: s.kernel, Seed: seed, Faults: map[string]int{}}
	clocks := s.readClocks(lab.Context(t, "clocks", commandTime))
	s.logbook.Clear()
	s.done = nil
	s.eachPage(func(number int, p *logbook.Page) {
		p.Reset(seed + uint64(number))
		p.Give(logbook.Work)
	})
	nodes := s.rig.cluster.Nodes()
	for time.Since(begin) < sliceTime() {
		if len(s.faults) > 0 {
			f, n := s.pick(), nodes[s.rand.IntN(len(nodes))]
			r.Faults[f.name]++
			s.done = append(s.done, sawFault{2 * int64(s.logbook.Now()), f.name, n.ID})
			require.NoError(t, f.do(s, lab.Context(t, f.name, 2*commandTime), n), "seed %d: %s on %s", seed, f.name, n.Name)
		}
		pause(t.Context(), s.seconds(4))
	}
	r.Work = time.Since(begin).Seconds()
	s.quiet(&r)
	r.Clocks = s.clockRates(lab.Context(t, "clocks", commandTime), clocks)
	r.Quiet = time.Since(begin).Seconds() - r.Work
	s.judge(&r)
	r.Judge = time.Since(begin).Seconds() - r.Work - r.Quiet
	s.write(r)
}

// eachPage calls a function with the pages of all clients.
func (s *soak) eachPage(do func(number int, p *logbook.Page)) {
	for _, k := range s.soakers {
		for _, number := range k.order {
			do(number, s.logbook.Page(number))
		}
	}
}

// quiet makes all clients release what they have, and checks that nothing is left.
func (s *soak) quiet(r *sliceReport) {
	ctx, cancel := context.WithTimeout(s.t.Context(), quietTime)
	defer cancel()
	for _, k := range s.soakers {
		k.give(logbook.Finish)
	}
	for _, k := range s.soakers {
		if err := k.obeyed(ctx); err != nil {
			s.t.Errorf("seed %d: %v", r.Seed, err)
		}
	}
	if s.t.Failed() {
		s.dump(r)
	}
	var all sync.WaitGroup
	seen := make([]sliceReport, len(s.rig.cluster.Nodes()))
	for i, n := range s.rig.cluster.Nodes() {
		all.Go(func() {
			if err := s.inspect(&seen[i], n); err != nil {
				s.t.Errorf("seed %d: %s at the quiet point: %v", r.Seed, n.Name, err)
			}
		})
	}
	all.Wait()
	for _, o := range seen {
		r.Descriptors, r.ResidentKB = max(r.Descriptors, o.Descriptors), max(r.ResidentKB, o.ResidentKB)
	}
	nodes := s.rig.cluster.Nodes()
	took, err := s.followClock(ctx, nodes[s.rand.IntN(len(nodes))])
	if err != nil {
		s.t.Errorf("seed %d: token clocks at the quiet point: %v", r.Seed, err)
	}
	r.Follow = took.Seconds()
	if s.t.Failed() {
		s.dump(r)
	}
}

// inspect examines a node at a time when nobody has a lock.
func (s *soak) inspect(r *sliceReport, n *lab.Node) error {
	ctx := lab.Context(s.t, "quiet point", commandTime)
	bus, err := s.rig.services[n.ID].Dial(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	for { // locks of a connection end when the service has seen its end
		locks, err := bus.Locks(ctx, client.Filter{})
		if err != nil {
			return err
		}
		if len(locks) == 0 {
			break
		}
		if pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("it has locks: %v", locks)
		}
	}
	orphans, err := bus.Orphans(ctx, soakSpace)
	if err != nil || len(orphans) > 0 {
		return errors.Join(err, fmt.Errorf("orphans: %v", orphans))
	}
	pid := s.rig.services[n.ID].PID()
	text, err := n.Shell(ctx, fmt.Sprintf("ls /proc/%d/fd | wc -l; awk '/^VmRSS/{print $2}' /proc/%d/status", pid, pid))
	if err != nil {
		return err
	}
	if _, err := fmt.Sscan(text, &r.Descriptors, &r.ResidentKB); err != nil {
		return fmt.Errorf("%q: %w", text, err)
	}
	if r.Descriptors > 100 || r.ResidentKB > 200<<10 {
		return fmt.Errorf("%d descriptors, %d KB of memory", r.Descriptors, r.ResidentKB)
	}
	return nil
}

// keep writes the history of a slice that fails. It returns the name that all files about
// the slice have, without the extension.
func (s *soak) keep(r *sliceReport) (name string) {
	name = filepath.Join(s.rig.cluster.Artefacts(), fmt.Sprintf("soak-%d", r.Seed))
	_ = os.WriteFile(name+".txt", []byte(s.account().text()+faultLines(s.done)), 0o644)
	return name
}

// dump keeps what the nodes know of the lockspace, and the history.
func (s *soak) dump(r *sliceReport) {
	name := s.keep(r)
	for _, n := range s.rig.cluster.Nodes() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		text, err := n.Shell(ctx, "for f in /sys/kernel/debug/dlm/"+soakSpace+"*; do echo \"== $f\"; cat $f; done; "+
			"dlm_tool status; dlm_tool ls; cat "+service.StateFile)
		cancel()
		_ = os.WriteFile(fmt.Sprintf("%s.%s", name, n.Name), fmt.Appendf(nil, "%s%v\n", text, err), 0o644)
	}
	s.t.Fatalf("see %s.*", name)
}
