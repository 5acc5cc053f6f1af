package table

import "github.com/dlmlock/dlmlockd/lockd/api"

// count counts a call that is answered.
func (t *Table) count(c *call) {
	switch {
	case c.err == nil:
		if _, acquires := c.op.(*acquireOp); acquires {
			t.counters.Latency.Observe(t.now.Sub(c.begun))
		}
	case c.err.Kind == api.Canceled:
		t.counters.Canceled++
	default:
		t.counters.Refused++
	}
}
