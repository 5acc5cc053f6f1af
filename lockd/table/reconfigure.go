package table

import (
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Settings are what may change while locks are held. No value has a default.
type Settings struct {
	Limits     api.Limits
	OpTimeout  time.Duration // how long a call waits for the lock manager that names no time
	Lockspaces []string      // to be joined, now and at every start
	Helpers    map[string]api.HelperPolicy
}

// Reconfigure takes over new settings.
func (t *Table) Reconfigure(set Settings) {
	if t.stopping {
		return
	}
	t.conf.Settings = set
	for _, sp := range t.spaces.byName {
		sp.configured = false
	}
	for _, name := range set.Lockspaces {
		sp := t.space(name)
		sp.configured = true
		// One that is being left is joined again when that is done, and one
		// that failed is tried again at once.
		if sp.state.idle() && sp.state != spaceReady {
			sp.join()
		}
	}
	for _, name := range t.LockspaceNames() {
		t.spaces.byName[name].drop() // named no more, and not joined
	}
}
