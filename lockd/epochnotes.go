package lockd

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// epochNotes writes the newest epoch down, on a goroutine of its own, because
// a file system may stand still.
type epochNotes struct {
	save   func(int64) error
	log    *slog.Logger
	newest atomic.Int64
	wake   chan struct{} // holds one token while newest may be unwritten
}

// epochRetry is how often an epoch that can't be written is tried again.
const epochRetry = 10 * time.Second

func newEpochNotes(save func(int64) error, log *slog.Logger) *epochNotes {
	return &epochNotes{save: save, log: log, wake: make(chan struct{}, 1)}
}

func (n *epochNotes) note(epoch int64) {
	n.newest.Store(epoch)
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// run writes until done is closed, and then what is left, once.
func (n *epochNotes) run(done <-chan struct{}) {
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	var written int64
	failing := false
	write := func() {
		epoch := n.newest.Load()
		if epoch == written || n.save == nil {
			return
		}
		err := n.save(epoch)
		switch {
		case err == nil:
			written, failing = epoch, false
			return
		case !failing:
			n.log.Warn("the token clock can't be saved in the state directory, so after a restart fencing tokens rely "+
				"on the wall clock; "+
				"the service tries again", "err", err)
			failing = true
		}
		retry.Reset(epochRetry)
	}
	for {
		select {
		case <-done:
			write()
			return
		case <-n.wake:
		case <-retry.C:
		}
		write()
	}
}
