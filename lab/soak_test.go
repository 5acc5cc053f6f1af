package lab_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// TestSoak has clients on three nodes work for as long as one likes, with faults
// of all kinds (soakFaults), and judges what they were told: make soak. It works
// in slices that end in a quiet point, where nobody holds anything. What each
// slice came to is a line in soak.jsonl, and a run that is started again adds to
// the lines that are there.
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

// soakGoal reads SOAK (a time) or SOAK_OPS (a number of calls in all runs).
func soakGoal(t *testing.T) (func(*soak) bool, string) {
	if text := os.Getenv("SOAK_OPS"); text != "" {
		ops, err := strconv.Atoi(text)
		require.NoError(t, err, "SOAK_OPS")
		return func(s *soak) bool { return s.total.Calls >= ops }, text + " calls"
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
	soakSpace      = "vms"
	soakState      = service.StateDir
	soakStateSize  = "8m"
	soakFill       = soakState + "/fill"
	clientsPerNode = 5
	sliceTime      = 25 * time.Second // of work, beside what faults take
	quietTime      = 2 * time.Minute
)

// A sliceReport is what a slice came to, or all of them.
type sliceReport struct {
	Time    string         `json:"time,omitempty"`
	Kernel  string         `json:"kernel"`
	Seed    uint64         `json:"seed,omitempty"`
	Calls   int            `json:"calls"`
	Granted int            `json:"granted"` // or released, or converted
	Refused int            `json:"refused"`
	Unknown int            `json:"unknown"`
	Faults  map[string]int `json:"faults"`
	// The largest of any node's daemon at the quiet point.
	Descriptors int `json:"descriptors"`
	ResidentKB  int `json:"residentKB"`
}

func (r *sliceReport) add(o sliceReport) {
	r.Calls += o.Calls
	r.Granted += o.Granted
	r.Refused += o.Refused
	r.Unknown += o.Unknown
	for name, n := range o.Faults {
		r.Faults[name] += n
	}
	r.Descriptors = max(r.Descriptors, o.Descriptors)
	r.ResidentKB = max(r.ResidentKB, o.ResidentKB)
}

type soak struct {
	t         *testing.T // of the slice
	rig       *serviceRig
	kernel    string
	report    string // path of soak.jsonl
	total     sliceReport
	began     time.Time
	rand      *rand.Rand
	resources []string
	gates     gates

	// Of the slice.
	history *history
	clients []*soakClient

	mu     sync.Mutex
	tokens map[string][]seenToken
	why    map[string]int // of calls without an answer
}

// seenToken is the fencing token of a lock that excludes others.
type seenToken struct {
	call, ret int64
	token     uint64
}

func newSoak(t *testing.T, kernel string) *soak {
	s := &soak{t: t, kernel: kernel, began: time.Now(), gates: gates{},
		resources: []string{"a", "b", "c", "d", "e", "f", "g", "h"},
		rig:       newServiceRig(t, lab.Config{Kernel: kernel, Nodes: 3, Fencing: true})}
	s.report = filepath.Join(filepath.Dir(s.rig.cluster.Artefacts()), "soak.jsonl")
	s.total = sliceReport{Kernel: kernel, Faults: map[string]int{}}
	require.NoError(t, s.readReport())
	ctx := lab.Context(t, "start", 2*commandTime)
	for _, n := range s.rig.cluster.Nodes() {
		s.gates[n.ID] = &sync.RWMutex{}
		require.NoError(t, s.prepare(ctx, n))
		require.NoError(t, s.start(ctx, n))
	}
	return s
}

// prepare gives the state directory a file system that can be full.
func (s *soak) prepare(ctx context.Context, n *lab.Node) error {
	_, err := n.Shell(ctx, fmt.Sprintf("mkdir -p -m 700 %[1]s && mountpoint -q %[1]s || "+
		"mount -t tmpfs -o mode=700,size=%[2]s soak %[1]s", soakState, soakStateSize))
	return err
}

// readReport adds up the slices of earlier runs.
func (s *soak) readReport() error {
	f, err := os.Open(s.report)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r sliceReport
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("%s: %w", s.report, err)
		}
		if r.Kernel == s.kernel {
			s.total.add(r)
		}
	}
	return lines.Err()
}

// slice works, with faults one after the other, until it is time to be quiet,
// and judges the history.
func (s *soak) slice(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SOAK_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "SOAK_SEED")
	}
	s.t, s.rand = t, rand.New(rand.NewPCG(seed, 0))
	s.history, s.tokens, s.why = &history{begin: time.Now()}, map[string][]seenToken{}, map[string]int{}
	s.clients = s.newClients(seed)
	r := sliceReport{Time: time.Now().UTC().Format(time.RFC3339), Kernel: s.kernel, Seed: seed, Faults: map[string]int{}}

	var working sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for _, c := range s.clients {
		working.Go(func() { c.work(ctx) })
	}
	for begin := time.Now(); time.Since(begin) < sliceTime; pause(ctx, s.seconds(4)) {
		f, n := s.pick(), s.rig.cluster.Nodes()[s.rand.IntN(len(s.rig.cluster.Nodes()))]
		r.Faults[f.name]++
		require.NoError(t, f.do(s, lab.Context(t, f.name, 2*commandTime), n), "seed %d: %s on %s", seed, f.name, n.Name)
	}
	stop()
	working.Wait()
	s.quiet(&r)
	s.judge(&r)
	s.write(r)
}

func (s *soak) newClients(seed uint64) (all []*soakClient) {
	for _, n := range s.rig.cluster.Nodes() {
		for i := range clientsPerNode {
			c := &soakClient{soak: s, node: n.ID, owner: fmt.Sprintf("n%d.%d", n.ID, i), lifetime: client.Persistent,
				rand: rand.New(rand.NewPCG(seed, uint64(len(all)+1))), held: map[string]dlm.Mode{}, open: map[string][]int{}}
			if i == 0 {
				c.lifetime = client.Connection
			}
			all = append(all, c)
		}
	}
	return all
}

// quiet has everybody release what he has, and looks for what is left.
func (s *soak) quiet(r *sliceReport) {
	ctx, cancel := context.WithTimeout(s.t.Context(), quietTime)
	defer cancel()
	var all sync.WaitGroup
	for _, c := range s.clients {
		all.Go(func() {
			if left := c.finish(ctx); len(left) > 0 {
				s.t.Errorf("seed %d: %s can't release %v: %v", r.Seed, c.owner, left, c.last)
			}
			c.disconnect()
		})
	}
	all.Wait()
	if s.t.Failed() {
		s.dump(r)
	}
	for _, n := range s.rig.cluster.Nodes() {
		s.inspect(r, n)
	}
}

// inspect looks at a node when nobody has a lock.
func (s *soak) inspect(r *sliceReport, n *lab.Node) {
	ctx := lab.Context(s.t, "quiet point", commandTime)
	bus, err := s.rig.services[n.ID].Dial(ctx)
	require.NoError(s.t, err)
	defer bus.Close()
	require.Eventually(s.t, func() bool { // connection locks go when the service has seen the end
		locks, err := bus.Locks(ctx, client.Filter{})
		require.NoError(s.t, err)
		return len(locks) == 0
	}, time.Minute, 100*time.Millisecond, "seed %d: %s has locks at the quiet point", r.Seed, n.Name)
	orphans, err := bus.Orphans(ctx, soakSpace)
	require.NoError(s.t, err)
	require.Empty(s.t, orphans, "seed %d: orphans on %s", r.Seed, n.Name)
	pid := s.rig.services[n.ID].PID()
	text, err := n.Shell(ctx, fmt.Sprintf("ls /proc/%d/fd | wc -l; awk '/^VmRSS/{print $2}' /proc/%d/status", pid, pid))
	require.NoError(s.t, err)
	words := strings.Fields(text)
	require.Len(s.t, words, 2, text)
	descriptors, _ := strconv.Atoi(words[0])
	resident, _ := strconv.Atoi(words[1])
	r.Descriptors, r.ResidentKB = max(r.Descriptors, descriptors), max(r.ResidentKB, resident)
	require.Less(s.t, descriptors, 100, "%s: descriptors", n.Name)
	require.Less(s.t, resident, 200<<10, "%s: memory in KB", n.Name)
}

// keep writes the history of a slice that fails, and returns where: the name of all that
// is kept of the slice, without its extension.
func (s *soak) keep(r *sliceReport) (name string) {
	name = filepath.Join(s.rig.cluster.Artefacts(), fmt.Sprintf("soak-%d", r.Seed))
	_ = os.WriteFile(name+".txt", []byte(s.history.text()), 0o644)
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

// judge searches the history for two holders, and the tokens for one that is not
// larger than one of a lock that had been granted before.
func (s *soak) judge(r *sliceReport) {
	for _, op := range s.history.ops {
		r.Calls++
		switch op.Output.(told) {
		case granted:
			r.Granted++
		case refused:
			r.Refused++
		default:
			r.Unknown++
		}
	}
	model := lockModel.ToModel()
	result, info := porcupine.CheckOperationsVerbose(model, s.history.ops, checkTime)
	if result != porcupine.Ok {
		_ = porcupine.VisualizePath(model, info, s.keep(r)+".html")
	}
	require.Equal(s.t, porcupine.Ok, result, "seed %d: two holders at one time, or no time to search", r.Seed)
	for name, seen := range s.tokens {
		checkTokens(s.t, name, seen)
	}
}

// checkTokens: a lock that excludes others has a larger token than every such
// lock that had been granted before it was asked for.
func checkTokens(t *testing.T, name string, seen []seenToken) {
	t.Helper()
	slices.SortFunc(seen, func(a, b seenToken) int { return cmp.Compare(a.call, b.call) })
	byEnd := slices.Clone(seen)
	slices.SortFunc(byEnd, func(a, b seenToken) int { return cmp.Compare(a.ret, b.ret) })
	var largest uint64
	ended := 0
	for _, s := range seen {
		for ended < len(byEnd) && byEnd[ended].ret < s.call {
			largest = max(largest, byEnd[ended].token)
			ended++
		}
		if s.token <= largest {
			t.Errorf("the token of %s went from %d to %d", name, largest, s.token)
		}
	}
}

func (s *soak) sawToken(name string, mode dlm.Mode, call int64, token uint64) {
	if mode != dlm.EX || token == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[name] = append(s.tokens[name], seenToken{call, s.history.now(), token})
}

// explain counts why calls had no answer that says what happened.
func (s *soak) explain(err error) {
	kind := "no answer"
	if e, ok := errors.AsType[*client.Error](err); ok {
		kind = string(e.Kind)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.why[kind]++
}

// write adds the slice to the report and prints a line of progress.
func (s *soak) write(r sliceReport) {
	s.total.add(r)
	line, err := json.Marshal(r)
	require.NoError(s.t, err)
	f, err := os.OpenFile(s.report, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(s.t, err)
	_, err = f.Write(append(line, '\n'))
	require.NoError(s.t, errors.Join(err, f.Close()))
	fmt.Printf("soak %s: %d calls in %v: %d done, %d refused, %d open %v; %d descriptors, %d KB; "+
		"all in all %d calls, %v\n", s.kernel, r.Calls, time.Since(s.history.begin).Round(time.Second), r.Granted,
		r.Refused, r.Unknown, s.why, r.Descriptors, r.ResidentKB, s.total.Calls, s.total.Faults)
}

// text is the history, a line for each call.
func (h *history) text() string {
	var b strings.Builder
	for _, op := range h.ops {
		fmt.Fprintf(&b, "%12d %20d %s\n", op.Call, op.Return, lockModel.DescribeOperation(op.Input, op.Output))
	}
	return b.String()
}
