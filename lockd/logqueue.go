package lockd

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// logQueue writes log lines on a goroutine of its own, because a journal or a
// terminal that does not read must not hold up the owner goroutine. When it is
// full, lines are dropped and counted.
type logQueue struct {
	log    *slog.Logger
	mu     sync.Mutex
	queue  []logLine
	lost   int
	closed bool
	wake   chan struct{}
}

type logLine struct {
	at time.Time
	logAction
}

const logQueueMax = 10000

func newLogQueue(log *slog.Logger) *logQueue {
	return &logQueue{log: log, wake: make(chan struct{}, 1)}
}

// debug reports whether lines for ordinary decisions are wanted.
func (q *logQueue) debug() bool { return q.log.Enabled(context.Background(), slog.LevelDebug) }

func (q *logQueue) add(a logAction) {
	q.mu.Lock()
	if len(q.queue) >= logQueueMax {
		q.lost++
	} else {
		q.queue = append(q.queue, logLine{time.Now(), a})
	}
	q.mu.Unlock()
	q.signal()
}

func (q *logQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *logQueue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

func (q *logQueue) run() {
	for {
		q.mu.Lock()
		lines, lost, closed := q.queue, q.lost, q.closed
		q.queue, q.lost = nil, 0
		q.mu.Unlock()
		for _, l := range lines {
			r := slog.NewRecord(l.at, l.level, l.msg, 0)
			r.AddAttrs(l.attrs...)
			if q.log.Enabled(context.Background(), l.level) {
				_ = q.log.Handler().Handle(context.Background(), r) // nowhere to say that logging failed
			}
		}
		if lost > 0 {
			q.log.Warn("log lines dropped, the log is too slow", "lines", lost)
		}
		if len(lines) > 0 || lost > 0 {
			continue
		}
		if closed {
			return
		}
		<-q.wake
	}
}
