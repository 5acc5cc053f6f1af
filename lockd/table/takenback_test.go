package table

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// backRig is a lock on node 1 whose conversion to EX is taken back, and node 2, which sees what is left
// in the value block.
type backRig struct {
	t        *testing.T
	one, two *sim
	cluster  *local.Cluster
	from     dlm.Mode
	held     api.Grant // before the conversion
	convert  *simCall
}

func newBackRig(t *testing.T, from dlm.Mode) *backRig {
	cluster := local.NewCluster("c")
	r := &backRig{t: t, cluster: cluster, from: from,
		one: newSim(t, cluster.AddNode(1), "vms"), two: newSim(t, cluster.AddNode(2), "vms")}
	for _, s := range []*sim{r.one, r.two} {
		s.start()
		s.rest()
	}
	// It keeps the value block alive, and there is a token in that.
	require.NoError(t, r.done(r.two.acquire(root, api.AcquireOptions{}, wantOf("vms", "x", dlm.NL))))
	writer := r.two.acquire(root, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX))
	require.NoError(t, r.done(writer))
	require.NoError(t, r.done(r.two.release(root, "vms", "x", api.Selector{Ref: writer.grants[0].Ref})))
	o, sel := vm("vm1")
	c := r.one.acquire(alice, o, wantOf("vms", "x", from))
	require.NoError(t, r.done(c))
	r.held = c.grants[0]
	r.pass(time.Second)
	r.convert = r.one.convert(alice, wantOf("vms", "x", dlm.EX), sel, time.Second)
	return r
}

func (r *backRig) settle() {
	for range 10 {
		r.one.rest()
		r.two.rest()
	}
}

func (r *backRig) pass(d time.Duration) {
	r.one.pass(d)
	r.two.pass(d)
}

func (r *backRig) done(c *simCall) error {
	r.settle()
	require.Equal(r.t, 1, c.answers, "%s has no answer", c.name)
	return c.err
}

// isAsBefore checks that the lock has the mode and the token that its client knows of, also for the next
// process.
func (r *backRig) isAsBefore() {
	r.t.Helper()
	for _, when := range []string{"at once", "after a restart"} {
		page, _ := r.one.tab.list(api.Filter{Lockspace: "vms", Resource: "x"})
		require.Len(r.t, page, 1)
		require.Equal(r.t, api.Held, page[0].State, when)
		require.Equal(r.t, r.from, page[0].Mode, when)
		require.Equal(r.t, r.held.Token, page[0].Token, when)
		rec, ok := r.one.recordOf(r.held.Ref)
		require.True(r.t, ok)
		require.Equal(r.t, r.held.Token, rec.Token, "on disk, %s", when)
		r.one.agree("x")
		r.one.restart()
	}
}

// othersAgree checks that nobody who may hold the resource beside the lock has a token by which storage
// would refuse the lock's, and that the next exclusive token is the largest.
func (r *backRig) othersAgree() {
	r.t.Helper()
	beside := map[dlm.Mode]dlm.Mode{dlm.NL: dlm.PR, dlm.CR: dlm.PR, dlm.PR: dlm.PR, dlm.CW: dlm.CW, dlm.PW: dlm.CR}[r.from]
	reader := r.two.acquire(bob, api.AcquireOptions{}, wantOf("vms", "x", beside))
	require.NoError(r.t, r.done(reader))
	require.Equal(r.t, r.held.Token, reader.grants[0].Token, "the lock's token is the current one")
	require.NoError(r.t, r.done(r.two.release(bob, "vms", "x", api.Selector{Ref: reader.grants[0].Ref})))
	require.NoError(r.t, r.done(r.one.release(alice, "vms", "x", api.Selector{Token: r.held.Token})))
	writer := r.two.acquire(bob, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX))
	require.NoError(r.t, r.done(writer))
	require.Greater(r.t, writer.grants[0].Token, r.held.Token)
}

// A conversion upward that fails leaves a lock with the mode, the token and the value block that it had,
// at whichever step it is given up, and whether or not its new mode was written down by then.
func TestTakenBackToTheTokenBefore(t *testing.T) {
	for _, from := range []dlm.Mode{dlm.NL, dlm.CR, dlm.CW, dlm.PR, dlm.PW} {
		late := 0
		for step := range 8 {
			t.Run(fmt.Sprintf("%s, given up after %d steps", from, step), func(t *testing.T) {
				r := newBackRig(t, from)
				for range step {
					_ = r.one.deliver() || r.one.write()
				}
				if r.convert.answers > 0 {
					require.NoError(t, r.done(r.convert))
					return
				}
				if rec, ok := r.one.recordOf(r.held.Ref); ok && rec.Mode == dlm.EX {
					late++
				}
				r.one.turn(func() { r.one.tab.SessionGone(alice.Session) })
				require.ErrorIs(t, r.done(r.convert), api.Canceled)
				r.isAsBefore()
				r.othersAgree()
			})
		}
		require.NotZero(t, late, "after the new mode was written")
		t.Run(from.String()+", not written", func(t *testing.T) {
			r := newBackRig(t, from)
			r.one.journal.SetFail(syscall.EIO)
			require.ErrorIs(t, r.done(r.convert), api.StateWriteFailed)
			r.one.journal.SetFail(0)
			r.one.retryJournal()
			r.isAsBefore()
			r.othersAgree()
		})
	}
}

// A conversion to a shared mode that is taken back gives back its token as well.
func TestTakenBackFromASharedMode(t *testing.T) {
	for _, from := range []dlm.Mode{dlm.NL, dlm.CR} {
		late := 0
		for step := range 6 {
			s, _ := simWith(t, "vms")
			o, sel := vm("vm1")
			held := s.acquire(alice, o, wantOf("vms", "x", from))
			require.NoError(t, s.done(held))
			writer := s.acquire(bob, api.AcquireOptions{}, wantOf("vms", "x", dlm.NL))
			require.NoError(t, s.done(writer))
			s.now = s.now.Add(time.Second)
			if from == dlm.NL { // somebody has it meanwhile
				means := api.Selector{Ref: writer.grants[0].Ref}
				require.NoError(t, s.done(s.convert(bob, wantOf("vms", "x", dlm.EX), means, 0)))
				require.NoError(t, s.done(s.convert(bob, wantOf("vms", "x", dlm.NL), means, 0)))
			}
			c := s.convert(alice, wantOf("vms", "x", dlm.PR), sel, time.Second)
			for range step {
				_ = s.deliver() || s.write()
			}
			if c.answers > 0 {
				continue
			}
			if rec, _ := s.recordOf(held.grants[0].Ref); rec.Mode == dlm.PR {
				late++
			}
			s.turn(func() { s.tab.SessionGone(alice.Session) })
			require.ErrorIs(t, s.done(c), api.Canceled)
			l := s.tab.locks.byRef(held.grants[0].Ref)
			require.Equal(t, from, l.mode)
			require.Equal(t, held.grants[0].Token, l.token, "given up after %d steps", step)
			s.agree("x")
		}
		require.NotZero(t, late)
	}
}

// A lock that can't be converted back keeps its new token with its new mode, also on disk.
func TestCantBeTakenBackAfterItWasWritten(t *testing.T) {
	for _, fails := range []syscall.Errno{0, syscall.EIO} {
		r := newBackRig(t, dlm.PW)
		for r.one.tab.locks.byRef(r.held.Ref).busy.op.(*convertOp).stage != convertRecording {
			require.True(t, r.one.deliver())
		}
		r.one.turn(func() { r.one.tab.SessionGone(alice.Session) })
		failing(r.cluster, "convert", syscall.ENOMEM)
		r.one.journal.SetFail(fails)
		require.ErrorIs(t, r.done(r.convert), api.Canceled)
		r.cluster.Fail(nil)
		r.one.journal.SetFail(0)
		r.one.retryJournal()
		for range 2 {
			l := r.one.tab.locks.byRef(r.held.Ref)
			require.Equal(t, dlm.EX, l.mode)
			require.Equal(t, api.Held, l.public())
			require.Greater(t, l.token, r.held.Token)
			r.one.agree("x")
			r.one.restart()
		}
	}
}

// If the process dies on the way back, the next one finds the lock as it was, or in its new mode and with
// a token that is larger than what others were given; never in the old mode with a token that its client
// does not know.
func TestCrashOnTheWayBack(t *testing.T) {
	for _, from := range []dlm.Mode{dlm.NL, dlm.CR, dlm.CW, dlm.PR, dlm.PW} {
		for given := range 6 {
			for step := range 8 {
				r := newBackRig(t, from)
				for range given {
					_ = r.one.deliver() || r.one.write()
				}
				if r.convert.answers > 0 {
					continue
				}
				r.one.turn(func() { r.one.tab.SessionGone(alice.Session) })
				for range step {
					_ = r.one.deliver() || r.one.write()
				}
				r.one.restart()
				page, _ := r.one.tab.list(api.Filter{Lockspace: "vms", Resource: "x"})
				require.Len(t, page, 1)
				if page[0].Mode == dlm.EX {
					require.Greater(t, page[0].Token, r.held.Token)
					continue
				}
				r.isAsBefore()
				r.othersAgree()
			}
		}
	}
}
