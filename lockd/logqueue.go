package lockd

import (
	"context"
	"log/slog"
	"time"

	"github.com/dlmlock/dlmlockd/internal/queue"
	"github.com/dlmlock/dlmlockd/lockd/table"
)

// logQueue writes log lines on a goroutine of its own, because a journal or a
// terminal that does not read must not hold up the owner. When it is
// full, lines are dropped and counted.
type logQueue struct {
	log   *slog.Logger
	lines *queue.Queue[logLine]
}

type logLine struct {
	at time.Time
	table.LogAction
}

const logQueueMax = 10000

func newLogQueue(log *slog.Logger) *logQueue {
	return &logQueue{log: log, lines: queue.New[logLine](logQueueMax)}
}

// debug reports whether lines for ordinary decisions are wanted.
func (q *logQueue) debug() bool { return q.log.Enabled(context.Background(), slog.LevelDebug) }

func (q *logQueue) add(a table.LogAction) { q.lines.Add(logLine{time.Now(), a}) }

func (q *logQueue) close() { q.lines.Close() }

func (q *logQueue) run() {
	for {
		b := q.lines.Take(nil)
		for _, l := range b.Items {
			q.write(l)
		}
		if b.Dropped > 0 {
			q.log.Warn("log lines dropped, the log is too slow", "lines", b.Dropped)
		}
		switch {
		case len(b.Items) > 0:
		case b.Closed:
			return
		default:
			<-q.lines.Wake()
		}
	}
}

func (q *logQueue) write(l logLine) {
	if !q.log.Enabled(context.Background(), l.Level) {
		return
	}
	r := slog.NewRecord(l.at, l.Level, l.Message, 0)
	r.AddAttrs(l.Attrs...)
	_ = q.log.Handler().Handle(context.Background(), r) // nowhere to say that logging failed
}
