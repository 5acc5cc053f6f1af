package onlost

import (
	"context"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Helper is one configured program.
type Helper struct {
	Command []string // the program's absolute path and its arguments
	Timeout time.Duration
}

// DefaultParallel is how many helpers run at once unless Config says otherwise.
const DefaultParallel = 4

// Config configures a Runner.
type Config struct {
	Helpers  map[string]Helper
	Parallel int // how many helpers may run at once; 0: DefaultParallel
	// Pause is the first pause before a helper that could not be started is started again; 0 stands
	// for a second.
	Pause time.Duration
	Log   *slog.Logger
}

// Runner runs helpers.
type Runner struct {
	cfg  Config
	ctx  context.Context
	kill context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	lines   map[string][]job // by their owners; the first job of a line is running or ready
	ready   []string         // lines whose first job may start
	running int              // at most Config.Parallel
	closed  bool             // nothing starts any more
}

// job is one run of a helper.
type job struct {
	run   api.LostRun
	ended func() // has the record of the lost lock dropped
}

// New makes a Runner. It must be closed.
func New(cfg Config) *Runner {
	if cfg.Parallel == 0 {
		cfg.Parallel = DefaultParallel
	}
	if cfg.Pause == 0 {
		cfg.Pause = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runner{cfg: cfg, lines: map[string][]job{}}
	r.ctx, r.kill = context.WithCancel(context.Background())
	return r
}

// Configure replaces the helpers. Those that are running go on as they were started.
func (r *Runner) Configure(helpers map[string]Helper) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cfg.Helpers = helpers
}

func (r *Runner) helper(name string) (h Helper, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok = r.cfg.Helpers[name]
	return h, ok
}

// line returns the key of helpers that run one after the other: those for one owner, or for one
// lock without an owner.
func line(r *api.LostRun) string {
	whose := "lock " + strconv.FormatUint(uint64(r.Ref), 10)
	if r.HasOwner {
		whose = "owner " + r.Owner
	}
	return strings.Join([]string{r.Helper, strconv.FormatUint(uint64(r.UID), 10), whose}, "\x00")
}

// Run starts a helper as soon as there is room. It calls ended when the helper has ended, in
// whatever way, or can't be run; not for a helper that Close has killed or prevented from starting.
// A helper that could not be started for want of descriptors, memory or processes has not run: it
// keeps its place and is tried again until it does.
func (r *Runner) Run(run api.LostRun, ended func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := line(&run)
	r.lines[name] = append(r.lines[name], job{run, ended})
	if len(r.lines[name]) == 1 {
		r.ready = append(r.ready, name)
	}
	r.dispatch()
}

// dispatch starts as many helpers as there is room for. The mutex is held.
func (r *Runner) dispatch() {
	for !r.closed && r.running < r.cfg.Parallel && len(r.ready) > 0 {
		name := r.ready[0]
		r.ready = r.ready[1:]
		r.running++
		j := r.lines[name][0]
		r.work.Go(func() { r.carryOut(name, j) })
	}
}

func (r *Runner) carryOut(name string, j job) {
	r.execute(&j.run)
	r.mu.Lock()
	r.running--
	if rest := r.lines[name][1:]; len(rest) > 0 {
		r.lines[name] = rest
		r.ready = append(r.ready, name)
	} else {
		delete(r.lines, name)
	}
	// A helper that Close has killed has not done its work: its record stays, and the next start
	// runs it again.
	killed := r.closed
	r.dispatch()
	r.mu.Unlock()
	if !killed {
		j.ended()
	}
}

// Close kills the helpers that are running, with their process groups, starts no more, and returns
// when all have ended.
func (r *Runner) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.kill()
	r.work.Wait()
}
