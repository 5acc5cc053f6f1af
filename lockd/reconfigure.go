package lockd

import (
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Settings are what may change while locks are held.
type Settings struct {
	Limits     api.Limits                  // zero: DefaultLimits
	OpTimeout  time.Duration               // see Config; zero: the default
	Lockspaces []string                    // to be joined, now and at every start
	Helpers    map[string]api.HelperPolicy // see Config
}

// Reconfigure takes over new settings. What is held or waits stays, also above
// a new limit; calls under way keep their deadlines. A lockspace that is new is
// joined; one that is not named any more stays joined, but is not joined again
// once it was left.
func (s *Service) Reconfigure(set Settings) {
	if set.Limits == (api.Limits{}) {
		set.Limits = api.DefaultLimits()
	}
	if set.OpTimeout == 0 {
		set.OpTimeout = defaultOpTimeout
	}
	s.post(func() { s.t.reconfigure(set) })
}

func (t *table) reconfigure(set Settings) {
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
	for _, name := range t.spaceNames() {
		t.dropSpace(t.spaces[name]) // named no more, and not joined
	}
}
