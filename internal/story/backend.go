package story

import (
	"context"
	"time"

	"github.com/dlmlock/dlmlockd/client"
)

// Backend is a place where stories happen. One goroutine plays a story; its jobs
// call a Service from goroutines of their own.
type Backend interface {
	// Place says which of the two it is.
	Place() Place
	// Dial connects a caller to the service of a node, which need not run.
	Dial(ctx context.Context, c Caller, node int) (Service, error)
	// Do carries out a command that is not a call, and prints what it has to say.
	Do(ctx context.Context, c *Command, out *Output) error
	// Running says whether the daemon of a node runs.
	Running(node int) bool
	// Process returns the number of a process that a story has started, and its
	// start time where the backend knows it.
	Process(node int, name string) (pid uint32, start uint64, ok bool)
	// Settle is called before each command. It returns when nothing moves any
	// more, where that can be known.
	Settle()
}

// Caller is a client of the service.
type Caller struct {
	Name     string
	UID, PID uint32
}

// Options are those of an acquire.
type Options struct {
	Owner, Label, Lifetime string
	HasOwner               bool // also for an owner that is empty
	PID                    uint32
	Start                  uint64 // the start time of that process; 0: not given
	Value                  []byte
	Wait                   time.Duration // negative: for ever
}

// Service is the service as a caller sees it: what *client.Client has, and what
// it has not but the service does.
type Service interface {
	Acquire(ctx context.Context, w client.Want, o Options) (client.Grant, error)
	AcquireMany(ctx context.Context, want []client.Want, o Options) ([]client.Grant, error)
	ConvertValue(ctx context.Context, w client.Want, s client.Selector, wait time.Duration,
		value []byte) (token uint64, err error)
	Release(ctx context.Context, lockspace, resource string, s client.Selector) error
	ReleaseOwner(ctx context.Context, lockspace, owner string) (uint32, error)
	ReleaseLabel(ctx context.Context, resources []client.Want, owner, label string) (uint32, error)
	Join(ctx context.Context, lockspace string) error
	Leave(ctx context.Context, lockspace string, force bool) error
	Orphans(ctx context.Context, lockspace string) ([]client.Orphan, error)
	Adopt(ctx context.Context, lockspace string, o client.Orphan, a client.Adoption) (token uint64, err error)
	Purge(ctx context.Context, lockspace string, lockids []uint32) (uint32, error)
	Locks(ctx context.Context, f client.Filter) ([]client.Lock, error)
	Lockspaces(ctx context.Context) ([]client.Lockspace, error)
	Inspect(ctx context.Context, lockspace, resource string) (client.Inspection, error)
	Status(ctx context.Context) (map[string]any, error)
	Watch(ctx context.Context) (<-chan client.Event, error)
	Close() error
}

// Canceler is a Service that withdraws the acquire of a job as a call of its own.
// For others the context of the job ends.
type Canceler interface {
	CancelJob(ctx context.Context, job string) error
}

type jobKey struct{}

// jobInfo is what a context says of the job that it is of.
type jobInfo struct {
	name  string
	asked chan struct{}
}

// JobOf returns the name of the job that a call is part of, or "".
func JobOf(ctx context.Context) string {
	info, _ := ctx.Value(jobKey{}).(*jobInfo)
	if info == nil {
		return ""
	}
	return info.name
}

// Asked is called by a Service when a call has been handed over. The story goes
// on then, so that calls of jobs keep their order.
func Asked(ctx context.Context) {
	if info, _ := ctx.Value(jobKey{}).(*jobInfo); info != nil {
		select {
		case info.asked <- struct{}{}:
		default:
		}
	}
}
