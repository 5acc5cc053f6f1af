package table

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// sideRig is a lock that is being converted from CW to PR or back, of which neither is the stronger mode.
// A lock of another node is in the way, until grant; with behind, another one waits for the new mode.
type sideRig struct {
	*sim
	rival    dlm.Lockspace
	from, to dlm.Mode
	held     api.Grant // before the conversion
	convert  *simCall
}

func newSideRig(t *testing.T, from dlm.Mode, behind bool) *sideRig {
	s, cluster := simWith(t, "vms")
	r := &sideRig{sim: s, rival: rivalOn(t, cluster), from: from, to: dlm.CW + dlm.PR - from}
	o, sel := vm("vm1")
	c := s.acquire(alice, o, wantOf("vms", "x", from))
	require.NoError(t, s.done(c))
	r.held = c.grants[0]
	r.rival.Lock(1, "x", from, 0)
	r.convert = s.call(Convert{Caller: alice, Want: wantOf("vms", "x", r.to), Selector: sel,
		Options: api.ConvertOptions{Wait: time.Second}})
	if behind {
		r.rival.Lock(2, "x", r.to, 0)
	}
	s.rest()
	require.Zero(t, r.convert.answers)
	return r
}

// grant has the conversion granted, and so many things happen after that.
func (r *sideRig) grant(steps int) {
	r.rival.Unlock(1, nil)
	for range steps {
		_ = r.deliver() || r.write()
	}
}

// is checks that the lock has a mode and the token that its client knows of, now and after a restart.
func (r *sideRig) is(m dlm.Mode) {
	for _, when := range []string{"now", "after a restart"} {
		l := r.tab.locks.byRef(r.held.Ref)
		require.Equal(r.t, api.Held, l.public(), when)
		require.Equal(r.t, m, l.mode, when)
		require.Equal(r.t, r.held.Token, l.token, when)
		r.agree("x")
		r.restart()
	}
}

// eachSideways plays every conversion, given up after every step; those that are answered before that are left out.
func eachSideways(t *testing.T, play func(r *sideRig, behind bool)) {
	for _, from := range []dlm.Mode{dlm.CW, dlm.PR} {
		for _, behind := range []bool{false, true} {
			given := 0
			for steps := range 4 {
				t.Run(fmt.Sprintf("%s, %t, given up after %d steps", from, behind, steps), func(t *testing.T) {
					r := newSideRig(t, from, behind)
					if r.grant(steps); r.convert.answers > 0 {
						return
					}
					given++
					r.turn(func() { r.tab.SessionGone(alice.Session) })
					require.ErrorIs(t, r.convert.err, api.Canceled)
					play(r, behind)
				})
			}
			require.Greater(t, given, 1)
		}
	}
}

// A conversion between CW and PR that is granted when its caller has given up is taken back, unless
// somebody else has the new mode as well by then.
func TestSidewaysTakenBack(t *testing.T) {
	eachSideways(t, func(r *sideRig, behind bool) {
		r.rest()
		if behind {
			r.is(r.to)
			return
		}
		r.is(r.from)
	})
}

// If the process dies on the way, the next one finds the lock in one of the two modes, with its token.
func TestCrashWhileTakenBackSideways(t *testing.T) {
	for steps := range 6 {
		eachSideways(t, func(r *sideRig, _ bool) {
			for range steps {
				_ = r.deliver() || r.write()
			}
			r.restart()
			r.is(r.tab.locks.byRef(r.held.Ref).mode)
		})
	}
}

// One that can't be recorded is not taken back, as that could fail: its answer tells so.
func TestSidewaysNotRecorded(t *testing.T) {
	for _, from := range []dlm.Mode{dlm.CW, dlm.PR} {
		r := newSideRig(t, from, false)
		r.journal.SetFail(syscall.EIO)
		r.grant(0)
		require.ErrorIs(t, r.done(r.convert), api.StateWriteFailed)
		require.ErrorContains(t, r.convert.err, "the lock is converted")
		r.journal.SetFail(0)
		r.retryJournal()
		r.is(r.to)
	}
}
