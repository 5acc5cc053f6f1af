package table

import "fmt"

// Needed finds what would go wrong, or stay undone, if the process ended now.
// Persistent locks need nobody.
func (t *Table) Needed() string {
	switch {
	case !t.ready:
		return "locks of the state file are being adopted"
	case t.degraded != "":
		return t.degraded
	case len(t.requests) > 0:
		return fmt.Sprintf("%d requests wait", len(t.requests))
	case len(t.calls)+len(t.queued) > 0:
		return "calls are under way"
	case len(t.bindings) > 0:
		return fmt.Sprintf("locks are tied to %d connections or processes", len(t.bindings))
	case len(t.runs) > 0:
		return fmt.Sprintf("helpers of %d lost locks run", len(t.runs))
	case t.guarded > 0:
		return fmt.Sprintf("%d locks have a helper that is run if they are lost", t.guarded)
	case len(t.doomed)+len(t.stuck)+len(t.probes) > 0:
		return "locks are being let go of"
	}
	for _, sp := range t.spaces {
		if sp.step != spaceIdle || !sp.retryAt.IsZero() {
			return fmt.Sprintf("lockspace %s is %s", sp.name, sp.state)
		}
	}
	return ""
}
