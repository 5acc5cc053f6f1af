package table

import (
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Settings are what may change while locks are held. No value has a default.
type Settings struct {
	Limits     api.Limits
	OpTimeout  time.Duration
	Lockspaces []string // to be joined, now and at every start
	Helpers    map[string]api.HelperPolicy
}

// Reconfigure takes over new settings.
func (t *Table) Reconfigure(set Settings) {
	if t.stopping {
		return
	}
	t.limits, t.opTime, t.helpers = set.Limits, set.OpTimeout, set.Helpers
	for _, sp := range t.spaces {
		sp.configured = false
	}
	for _, name := range set.Lockspaces {
		sp := t.space(name)
		sp.configured = true
		// One that is being left is joined again when that is done, and one
		// that failed is tried again at once.
		if sp.step == spaceIdle && sp.state != api.SpaceReady && sp.state != api.SpaceLeaving {
			t.open(sp)
		}
	}
	for _, name := range t.LockspaceNames() {
		t.dropSpace(t.spaces[name]) // named no more, and not joined
	}
}
