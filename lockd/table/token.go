package table

import (
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// maxToken is above every token that can come of a clock. A value block that says
// more is damaged, and must not use up the numbers.
const maxToken = 1 << 63

// holderIn returns what the value block that came with an event says; ok is false if none came, or
// if it is damaged.
func holderIn(ev dlm.Event) (h api.Holder, ok bool) {
	h, ok = api.DecodeHolder(ev.Value)
	return h, ok && ev.HasValue && h.Token < maxToken
}

// token returns the fencing token of a grant in mode, whose event is ev.
//
// A grant in PW or EX gets a number larger than every earlier one of that
// resource in the cluster: one more than the largest of what the value block
// says, what this instance has seen in the lockspace, and the clock of the
// tokens in microseconds. The value block alone would not do: it is forgotten
// when nobody holds the resource, and may be old when a holder's node has died
// (VALNOTVALID). The clock covers both, so the promise is as good as the clocks
// of the nodes: docs/tokens.md says exactly when it holds.
//
// Weaker grants share the current number, which is the value block's.
func (c *tokenClock) token(sp *lockspace, mode dlm.Mode, ev dlm.Event) uint64 {
	if sp.raw {
		return 0
	}
	var current uint64
	if h, ok := holderIn(ev); ok {
		current = h.Token
		if h.Token > sp.highToken { // not one of this instance
			sp.highToken = h.Token
			c.see(h.Token)
		}
	}
	if mode < dlm.PW {
		if current != 0 && !ev.ValueInvalid {
			return current
		}
		return max(sp.highToken, c.read())
	}
	sp.highToken = max(sp.highToken, c.read()) + 1
	return sp.highToken
}
