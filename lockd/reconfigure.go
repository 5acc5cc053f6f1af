package lockd

import (
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/lockd/table"
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
	s.post(func() { s.t.Reconfigure(table.Settings(set)) })
}
