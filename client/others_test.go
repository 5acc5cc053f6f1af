package client

import (
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// A release that the service reports counts even if the holder can't ask: the service's socket was
// renamed, so only existing connections still work. Nor is the service needed to release what no
// longer exists.
func TestReleasedWhileTheSocketIsAway(t *testing.T) {
	r := startReal(t)
	c := r.open(true)
	one, unlock, err := c.Lock(t.Context(), Want{"vms", "a", ""}, Options{})
	require.NoError(t, err)
	other, _, err := c.Lock(t.Context(), Want{"vms", "b", ""}, Options{})
	require.NoError(t, err)
	dropIdle(c)
	require.NoError(t, os.Rename(r.socket, r.socket+".away"))
	admin := OpenVarlink(r.socket + ".away")
	defer admin.Close()
	require.NoError(t, admin.Release(t.Context(), "vms", "a", Selector{}))
	require.Equal(t, LossReleased, lossOf(t, one).How)
	require.NoError(t, unlock())
	require.NoError(t, other.Err())
}

// A conversion by somebody else is a loss even if the lock has its mode again by the time that the
// holder looks. Here it does not look in between, as during a conversion of its own.
func TestConvertedAndBack(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		ctx, other := t.Context(), r.open(true)
		for _, modes := range [][]string{{"EX", "NL"}, {"PW", "PR"}, {"PR", "EX"}} {
			held, unlock, err := c.Lock(ctx, Want{"vms", "a", modes[0]}, Options{})
			require.NoError(t, err)
			h := HeldBy(held)
			token := h.Token()
			change := func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.changes++
			}
			change()
			for _, mode := range []string{modes[1], modes[0]} {
				_, err := other.Convert(ctx, Want{"vms", "a", mode}, Selector{}, 0)
				require.NoError(t, err)
			}
			change()
			c.kept.mu.Lock()
			c.kept.hurry(h)
			c.kept.mu.Unlock()
			loss := lossOf(t, held)
			require.Equal(t, LossConverted, loss.How, modes)
			require.Regexp(t, "^somebody else converted it to another mode and back: its token was "+
				strconv.FormatUint(token, 10)+" and is now ", loss.Reason)
			require.NoError(t, unlock())
		}
		require.Empty(t, heldLocks(t, other, "a"))
	})
}

// Some answers of the service prove that somebody else has converted a lock, others do not.
func TestWhatProvesAConversion(t *testing.T) {
	grant := Grant{Lock: "/lock/1", Mode: "EX", Token: 5}
	for name, c := range map[string]struct {
		grant     Grant
		now       Lock
		unsettled bool
		loss      bool
		token     uint64 // afterwards
	}{
		"as it was":                  {grant, Lock{Mode: "EX", Token: 5, State: "held"}, false, false, 5},
		"another mode":               {grant, Lock{Mode: "NL", Token: 5, State: "held"}, false, true, 5},
		"on its way back":            {grant, Lock{Mode: "NL", Token: 5, State: "converting"}, false, true, 5},
		"another token":              {grant, Lock{Mode: "EX", Token: 6, State: "held"}, false, true, 5},
		"the service names no token": {grant, Lock{Mode: "EX", State: "held"}, false, false, 5},
		"granted without a token":    {Grant{Lock: "/lock/1", Mode: "EX"}, Lock{Mode: "EX", Token: 6}, false, false, 0},
		"its own attempt":            {grant, Lock{Mode: "EX", Token: 6, State: "held"}, true, false, 6},
		"its own attempt, not over":  {grant, Lock{Mode: "EX", Token: 6, State: "converting"}, true, false, 5},
		"its own and another's":      {grant, Lock{Mode: "NL", Token: 6, State: "held"}, true, true, 5},
	} {
		h := &Held{grants: []Grant{c.grant}}
		if c.unsettled {
			h.unsettle(c.grant.Lock)
		}
		loss := h.changedBy(c.grant, c.now, 0)
		require.Equal(t, c.loss, loss != nil, name)
		require.Equal(t, c.token, h.Token(), name)
		require.Nil(t, h.changedBy(c.grant, Lock{Mode: "NL"}, 2), name)
		h.grants[0].Token = 7
		require.Nil(t, h.changedBy(c.grant, c.now, 0), name)
	}
}

// A change that is reported is looked at unless the lock is as it should be, including its token.
func TestReportedChanges(t *testing.T) {
	h := &Held{grants: []Grant{{Lock: "/lock/1", Mode: "EX", Token: 5}}}
	for e, looked := range map[*Event]bool{
		{Mode: "EX", State: "held", token: 5}:       false,
		{Mode: "EX", State: "held"}:                 false,
		{Mode: "EX", State: "converting", token: 5}: false,
		{Mode: "EX", State: "held", token: 6}:       true,
		{Mode: "NL", State: "held", token: 5}:       true,
		{Mode: "EX", State: "releasing", token: 5}:  true,
	} {
		e.Lock = "/lock/1"
		k := &keeper{byLock: map[LockName][]*Held{"/lock/1": {h}}, wake: make(chan struct{}, 1)}
		k.touch(*e)
		require.Equal(t, looked, len(k.soon) == 1, *e)
	}
}

// dropIdle closes the connections that a client over Varlink keeps for its next calls.
func dropIdle(c *Client) {
	p := c.transport().(*varlink).pool
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, idle := range p.idle {
		_ = idle.sock.Close()
	}
	p.idle = nil
}

// A release by somebody else at the very moment of the grant is noticed, whether the service reports it
// before Hold knows the lock or afterwards.
func TestReleasedAtTheGrant(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		admin := r.open(true)
		rounds := 50
		if c.Conn() != nil {
			rounds = 1 // it is asked about every two seconds
		}
		for range rounds {
			released := make(chan error, 1)
			go func() {
				for {
					err := admin.Release(t.Context(), "vms", "a", Selector{})
					if !errors.Is(err, NotHeld) {
						released <- err
						return
					}
				}
			}()
			held, unlock, err := c.Lock(t.Context(), Want{"vms", "a", ""}, Options{})
			require.NoError(t, err)
			require.NoError(t, <-released)
			require.Equal(t, LossReleased, lossOf(t, held).How)
			require.NoError(t, unlock())
		}
	})
}
