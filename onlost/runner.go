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

// DefaultParallel is how many helpers run at once where Config says nothing.
const DefaultParallel = 4

// Config is what a Runner is made of.
type Config struct {
	Helpers  map[string]Helper
	Parallel int           // at most so many at once; 0: DefaultParallel
	Pause    time.Duration // before one that could not be started is started again, at first; 0: a second
	Log      *slog.Logger
}

// Runner runs helpers.
type Runner struct {
	cfg  Config
	ctx  context.Context
	kill context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	lines   map[string][]job // by whose they are; the first is running or ready
	ready   []string         // lines whose first may start
	running int
	closed  bool
}

type job struct {
	run   api.LostRun
	ended func()
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

// Configure replaces the helpers. Those that run go on as they were begun.
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

// line names what runs one after the other: the helper for one owner, or for one
// lock that is its own.
func line(r *api.LostRun) string {
	whose := "lock " + strconv.FormatUint(uint64(r.Ref), 10)
	if r.HasOwner {
		whose = "owner " + r.Owner
	}
	return strings.Join([]string{r.Helper, strconv.FormatUint(uint64(r.UID), 10), whose}, "\x00")
}

// Run starts a helper as soon as there is room. ended is called when the helper
// has ended, however it did, or can't be run; it is not called for one that
// Close has killed or kept from starting. One that could not be started for want
// of descriptors, memory or processes has not been run: it keeps its place and is
// started again until it is.
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

// dispatch starts what there is room for. The mutex is held.
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
	killed := r.closed
	r.dispatch()
	r.mu.Unlock()
	if !killed {
		j.ended()
	}
}

// Close kills the helpers that run, with their process groups, starts no more,
// and returns when all have ended.
func (r *Runner) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.kill()
	r.work.Wait()
}
