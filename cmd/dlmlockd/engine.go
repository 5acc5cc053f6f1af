package main

import (
	"log/slog"
	"os"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/libdlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// newEngine makes the engine with the given name, and never another one: a daemon that was to lock
// in the cluster must never lock on one node only.
func newEngine(name string, log *slog.Logger) (dlm.Engine, error) {
	if name == config.EngineLocal {
		host, err := os.Hostname()
		if err != nil {
			host = "localhost"
		}
		return local.New(host), nil
	}
	e, err := libdlm.New(log)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// restorer is an engine whose locks live in this process and are restored from the records, as a
// kernel would still have them.
type restorer interface {
	Restore(lockspace string, held []dlm.Orphan) error
}

// restore gives e the locks of the state file if e can't have kept them itself. For each joined
// lockspace these are the anchor and every lock that was persistent: a lock whose record is still
// in phase granted was not, and nobody has been told about it. A lock whose record is damaged is
// gone.
func restore(e dlm.Engine, c state.Contents, bootID, instance string, log *slog.Logger) {
	r, ok := e.(restorer)
	if !ok {
		return
	}
	if len(c.Damage) > 0 {
		log.Error("locks whose records are damaged are gone, because this engine keeps its locks in the state file "+
			"alone",
			"pieces", len(c.Damage), "kept", c.Quarantined)
	}
	if c.Header.BootID != bootID {
		return // a reboot ends the locks of every engine
	}
	held := orphans(c, api.AnchorName(instance))
	// In the order of the file, so that the same file gives the same locks and the same log.
	for _, s := range c.Spaces {
		if len(held[s.Name]) == 0 {
			continue
		}
		if err := r.Restore(s.Name, held[s.Name]); err != nil {
			log.Error("not every recorded lock can be restored", "lockspace", s.Name, "err", err)
		}
	}
}

// orphans returns what restore gives back, by lockspace. One that was being created or left is not
// there: this engine does not have it. The anchor comes first, because of two records with the same
// lockid the first one counts.
func orphans(c state.Contents, anchor string) map[string][]dlm.Orphan {
	room := map[string]int{}
	for i := range c.Locks {
		room[c.Locks[i].Lockspace]++
	}
	held := map[string][]dlm.Orphan{}
	for _, s := range c.Spaces {
		if s.Phase == state.Joined {
			held[s.Name] = append(make([]dlm.Orphan, 0, 1+room[s.Name]),
				dlm.Orphan{LockID: s.AnchorID, Resource: anchor, Mode: dlm.NL})
		}
	}
	for i := range c.Locks {
		l := &c.Locks[i]
		if in, ok := held[l.Lockspace]; ok && (l.Phase == state.Held || l.Phase == state.Releasing) {
			held[l.Lockspace] = append(in, dlm.Orphan{LockID: l.LockID, Resource: l.Resource, Mode: l.Mode})
		}
	}
	return held
}
