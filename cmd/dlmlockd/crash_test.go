package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// The crash test of promises 1 to 4. Clients work on the real program while it is killed; each
// keeps account of its answers. After the restart
//   - every answered call is true: the lock exists in that mode under that
//     lockid, or does not exist;
//   - every unanswered call is wholly done or wholly undone;
//   - the state file, the service's table and the lock manager agree.

// held is what one owner has on one resource; the zero value is nothing.
type held struct {
	mode   string
	lockid uint32 // 0: any, because no answer has named it
}

// slot is one owner's place on one resource, used by one client only.
type slot struct {
	resource, owner string
	now             held
	// A call that got no answer leaves two possibilities.
	unsure bool
	other  held
}

func (s *slot) String() string { return s.resource + " of " + s.owner }

// worker is one client with its slots.
type worker struct {
	locker
	rand     *rand.Rand
	slots    []*slot
	answered atomic.Int64
	unknown  int
	refused  int
}

// crashSpace is the lockspace; the environment may name another one.
var crashSpace = cmp.Or(os.Getenv("DLMLOCKD_TEST_LOCKSPACE"), "vms")

var crashModes = []string{"NL", "CR", "CW", "PR", "PW", "EX"}

// newWorkers makes workers, every other one of which uses Varlink.
func newWorkers(t *testing.T, b *testbus.Bus, dir string, n int, seed uint64) []*worker {
	var ws []*worker
	for i := range n {
		w := &worker{locker: newClient(b.Dial(t)), rand: rand.New(rand.NewPCG(seed, uint64(i)))}
		if i%2 == 1 {
			w.locker = &varlinkLocker{socket: crashSocket(dir)}
		}
		for r := range 6 {
			// Resources are shared, so that some calls are refused; owners are not.
			w.slots = append(w.slots, &slot{resource: fmt.Sprintf("disk%d", r), owner: fmt.Sprintf("vm%d", i)})
		}
		ws = append(ws, w)
	}
	return ws
}

// work calls until a call gets no answer.
func (w *worker) work() {
	for w.step(w.slots[w.rand.IntN(len(w.slots))]) {
	}
}

// step makes one call on a slot.
func (w *worker) step(s *slot) bool {
	if s.now.mode != "" && w.rand.IntN(3) > 0 {
		return w.do(s, "")
	}
	return w.do(s, crashModes[w.rand.IntN(len(crashModes))])
}

// do makes the call that brings a slot to a mode, or releases it for "", and notes what is known
// after it. It returns false if there was no answer.
func (w *worker) do(s *slot, mode string) bool {
	after := held{mode, s.now.lockid}
	var err error
	switch {
	case s.now.mode == "":
		after.lockid, err = w.acquire(crashSpace, s.resource, mode, "owner", s.owner)
	case mode == "":
		after = held{}
		err = w.release(crashSpace, s.resource, "owner", s.owner)
	default:
		err = w.convert(crashSpace, s.resource, mode, "owner", s.owner)
	}
	name := errorName(err)
	switch {
	case err == nil:
		w.answered.Add(1)
		s.now = after
	case strings.HasPrefix(name, "org.example.DlmLock.Error."):
		w.answered.Add(1)
		w.refused++
	default:
		w.unknown++
		s.unsure, s.other = true, after
		return false
	}
	return true
}

// life is how long a daemon lives until it is killed: a number of answered calls, which is enough
// to see every kind of change however fast the machine is, and then a time shorter than a call or
// two.
type life struct {
	calls  int64
	then   time.Duration
	atMost time.Duration
}

// aLife makes one up. With the kernel's DLM it is on an emulated machine.
func aLife(random *rand.Rand) life {
	if testEngine() == config.EngineDLM {
		return life{random.Int64N(40), time.Duration(random.Int64N(int64(30 * time.Millisecond))), 5 * time.Second}
	}
	return life{random.Int64N(250), time.Duration(random.Int64N(int64(2 * time.Millisecond))), time.Second}
}

// live waits until it is over.
func (l life) live(ws []*worker) {
	answered := func() (n int64) {
		for _, w := range ws {
			n += w.answered.Load()
		}
		return n
	}
	end := answered() + l.calls
	for began := time.Now(); answered() < end && time.Since(began) < l.atMost; {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(l.then)
}

// roundsOf is how many rounds a test makes; the environment may say it.
func roundsOf(usual int) int {
	if n, err := strconv.Atoi(os.Getenv("DLMLOCKD_TEST_ROUNDS")); err == nil {
		return n
	}
	if testing.Short() {
		return usual / 6
	}
	return usual
}

// shareOfSteps says with which step to begin and how far to go on each time, so that several
// machines can divide the steps: "2/3" in the environment is the second of three.
func shareOfSteps(t *testing.T) (first, stride int) {
	t.Helper()
	text := os.Getenv("DLMLOCKD_TEST_SHARE")
	if text == "" {
		return 1, 1
	}
	_, err := fmt.Sscanf(text, "%d/%d", &first, &stride)
	require.NoError(t, err)
	return first, stride
}

func slotsOf(ws []*worker) map[[2]string]*slot {
	m := map[[2]string]*slot{}
	for _, w := range ws {
		for _, s := range w.slots {
			m[[2]string{s.resource, s.owner}] = s
		}
	}
	return m
}

// crashRound lets the workers work on a fresh daemon until it dies, then checks the file. kill, if
// given, is called once they work.
func crashRound(t *testing.T, ws []*worker, p *running, dir string, kill func()) {
	t.Helper()
	var working sync.WaitGroup
	for _, w := range ws {
		working.Go(w.work)
	}
	if kill != nil {
		kill()
	}
	working.Wait()
	<-p.exited
	checkFile(t, dir, slotsOf(ws))
}

// TestCrashAtRandomPoints kills the program, as it is shipped, in the middle
// of the work of several clients, again and again.
func TestCrashAtRandomPoints(t *testing.T) {
	rounds := roundsOf(60)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, seed))
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	ws := newWorkers(t, bus, dir, 6, seed)
	c := newClient(bus.Dial(t))
	p := startBoth(t, bus, dir)
	require.NoError(t, c.join(crashSpace))
	for range rounds {
		crashRound(t, ws, p, dir, func() {
			aLife(random).live(ws)
			p.kill()
		})
		p = startBoth(t, bus, dir)
		checkService(t, c, slotsOf(ws))
		if t.Failed() {
			return
		}
	}
	tally(t, ws, rounds)
}

// hooked is the program with the crash hook.
func hooked(t *testing.T) string { return built(t, "DLMLOCKD_TEST_HOOKED", "godbus_no_tcp crashtest") }

// crashAt has the program with the crash hook die at its n-th step.
func crashAt(n int) []string { return []string{fmt.Sprintf("DLMLOCKD_CRASH_STEP=%d", n)} }

// launchHooked starts a daemon that dies at its n-th step, and reports whether
// it got ready before.
func launchHooked(t *testing.T, b *testbus.Bus, dir string, n int) (p *running, ready bool) {
	t.Helper()
	p = launch(t, hooked(t), b.Address, dir, crashAt(n),
		"--varlink="+crashSocket(dir))
	return p, p.readyOrDead(t)
}

// story is what the client of TestCrashAtEveryStep does: every kind of change,
// alone and with another lock on the resource. "" releases.
var story = []struct {
	slot int
	mode string
}{{0, "EX"}, {1, "EX"}, {2, "PR"}, {0, "PR"}, {1, "PR"}, {2, "EX"}, {1, ""}, {0, "EX"}, {0, "NL"}, {1, "EX"}, {0, ""},
	{1, ""}, {2, ""}}

// TestCrashAtEveryStep kills the program before the first step of the order of events, then before
// the second, and so on through a story that has every kind of change, and each time before the
// first, second ... step of the activation that follows.
func TestCrashAtEveryStep(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	crashAtEveryStep(t, bus, dir, newClient(bus.Dial(t)))
}

func crashAtEveryStep(t *testing.T, bus *testbus.Bus, dir string, l locker) {
	c := newClient(bus.Dial(t))
	w := &worker{locker: l, slots: []*slot{
		{resource: "disk", owner: "a"}, {resource: "disk", owner: "b"}, {resource: "other", owner: "a"},
	}}
	slots := slotsOf([]*worker{w})
	p := startBoth(t, bus, dir)
	require.NoError(t, c.join(crashSpace))
	p.kill()
	first, stride := shareOfSteps(t)
	for n := first; ; n += stride {
		p, ready := launchHooked(t, bus, dir, n)
		done := ready && w.tell()
		if done {
			p.kill()
		}
		<-p.exited
		checkFile(t, dir, slots)
		recoverWithCrashes(t, bus, dir, slots, n/stride)
		p = startBoth(t, bus, dir)
		checkService(t, c, slots)
		for _, s := range w.slots {
			if s.now.mode != "" {
				require.NoError(t, c.release(crashSpace, s.resource, "owner", s.owner))
				s.now = held{}
			}
		}
		p.kill()
		if t.Failed() {
			t.Fatalf("at step %d", n)
		}
		if done {
			t.Logf("%d steps", n-1)
			require.Greater(t, n, 30, "the hook does not see the steps")
			return
		}
	}
}

// tell does the story; false if the daemon died in it.
func (w *worker) tell() bool {
	for _, line := range story {
		s := w.slots[line.slot]
		if line.mode == "" && s.now.mode == "" {
			continue // an earlier refusal
		}
		if !w.do(s, line.mode) {
			return false
		}
	}
	return true
}

// recoverWithCrashes starts the daemon again and again, and lets it die later and later in its
// activation, until the activation ends before that. On an emulated machine each round leaves out
// most of the steps, and not those of the round before.
func recoverWithCrashes(t *testing.T, b *testbus.Bus, dir string, slots map[[2]string]*slot, round int) {
	t.Helper()
	stride := 1
	if testEngine() == config.EngineDLM {
		stride = 4
	}
	for m := 1 + round%stride; ; m += stride {
		p, ready := launchHooked(t, b, dir, m)
		if ready {
			p.kill()
			return
		}
		require.Equal(t, -1, p.code, "it ended by itself: %s", p.log())
		checkFile(t, dir, slots)
	}
}

// TestCrashAtRandomStepsUnderLoad has several clients at work when the program
// dies between two steps.
func TestCrashAtRandomStepsUnderLoad(t *testing.T) {
	rounds := roundsOf(25)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, seed))
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	ws := newWorkers(t, bus, dir, 6, seed)
	c := newClient(bus.Dial(t))
	p := startBoth(t, bus, dir)
	require.NoError(t, c.join(crashSpace))
	const early, late = 20, 1020
	for _, share := range random.Perm(rounds) { // a step of each part of the range
		p.kill()
		for ready := false; !ready; { // the activation may take all the steps
			p, ready = launchHooked(t, bus, dir, early+(late-early)*share/rounds+random.IntN((late-early)/rounds))
		}
		crashRound(t, ws, p, dir, nil)
		p = startBoth(t, bus, dir)
		checkService(t, c, slotsOf(ws))
		if t.Failed() {
			return
		}
	}
	tally(t, ws, rounds)
}

// TestCrashInAcquireMany kills the program at every step of acquiring three locks at once and of
// releasing all of their owner's: it is always three or none.
func TestCrashInAcquireMany(t *testing.T) {
	type want struct{ Lockspace, Resource, Mode string }
	three := []want{{crashSpace, "a", "EX"}, {crashSpace, "b", "PR"}, {crashSpace, "c", "CW"}}
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	c := newClient(bus.Dial(t))
	p := startBoth(t, bus, dir)
	require.NoError(t, c.join(crashSpace))
	p.kill()
	first, stride := shareOfSteps(t)
	for n, done := first, false; !done; n += stride {
		p, ready := launchHooked(t, bus, dir, n)
		acquired, released := false, false
		if ready {
			acquired = c.call("AcquireMany", three, opts("owner", "o")).Err == nil
		}
		if acquired {
			released = c.call("ReleaseOwner", "", "o").Err == nil
			done = released
		}
		if done {
			p.kill()
		}
		<-p.exited
		p = startBoth(t, bus, dir)
		locks := c.list(t)
		switch {
		case released:
			require.Empty(t, locks, "step %d", n)
		case len(locks) != 0:
			require.Len(t, locks, 3, "step %d", n)
		}
		require.NoError(t, c.call("ReleaseOwner", "", "o").Err)
		p.kill()
		if done {
			require.Greater(t, n, 15, "the hook does not see the steps")
		}
	}
}
