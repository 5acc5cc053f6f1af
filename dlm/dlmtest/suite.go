package dlmtest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Run runs the suite. Rules about queues, values and orphans run with all processes on one node. In
// a rig with more nodes they also run with each process on a different node, twice: with the
// holder's node as master of the resource, and with another node as master because that requested
// it first.
func Run(t *testing.T, rig Rig) {
	places := []place{{name: "on one node"}}
	if rig.Nodes() >= 2 {
		places = append(places,
			place{name: "across nodes", spread: true},
			place{name: "across nodes with another master", spread: true, master: true})
	}
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			s := newSuite(t, rig, p)
			for _, rules := range [][]rule{queueRules, convertRules, blockingRules, valueRules, orphanRules} {
				s.run(t, rules)
			}
		})
	}
	t.Run("lockspaces", func(t *testing.T) { newSuite(t, rig, places[0]).run(t, lockspaceRules) })
	if rig.Nodes() >= 2 {
		s := newSuite(t, rig, place{spread: true})
		t.Run("several nodes", func(t *testing.T) { s.run(t, clusterRules) })
		t.Run("node crash", s.crash)
	}
}

// rule is one behaviour that every engine must have.
type rule struct {
	name string
	run  func(c *check)
}

// place says where the processes of a rule are.
type place struct {
	name   string
	spread bool // each on a different node
	master bool // another node requests each resource first
}

// suite keeps the processes that rules of one place share.
type suite struct {
	rig       Rig
	place     place
	lockspace string
	timing    Timing
	sessions  []*session // by role
	names     int
}

// session is one process with the shared lockspace open.
type session struct {
	process Process
	space   dlm.Lockspace
	events  *Events
	node    int
	cookies atomic.Uint64
	dead    bool
}

var suites atomic.Uint32

func newSuite(t *testing.T, rig Rig, p place) *suite {
	p.name = fmt.Sprint(suites.Add(1)) // names of resources begin with it
	s := &suite{rig: rig, place: p, lockspace: rig.Lockspace(t), timing: rig.Timing()}
	t.Cleanup(func() {
		for _, ses := range s.sessions {
			if ses != nil && !ses.dead {
				require.NoError(t, ses.process.Close())
			}
		}
	})
	return s
}

func (s *suite) run(t *testing.T, rules []rule) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) { r.run(&check{T: t, suite: s}) })
	}
}

// session returns the running process of a role; it starts a new one if there is none or if the
// last one has died.
func (s *suite) session(t testing.TB, role int) *session {
	for len(s.sessions) <= role {
		s.sessions = append(s.sessions, nil)
	}
	if ses := s.sessions[role]; ses != nil && !ses.dead {
		return ses
	}
	node := 0
	if s.place.spread {
		node = role % s.rig.Nodes()
	}
	s.sessions[role] = s.start(t, node, s.lockspace)
	return s.sessions[role]
}

// start starts a process on a node with a lockspace open.
func (s *suite) start(t testing.TB, node int, lockspace string) *session {
	ses := &session{process: s.rig.Process(t, node), events: NewEvents(s.timing.Wait), node: node}
	ctx, cancel := context.WithTimeout(t.Context(), s.timing.Wait)
	defer cancel()
	space, err := ses.process.Open(ctx, lockspace, ses.events.Sink)
	require.NoError(t, err)
	ses.space = space
	return ses
}

// check is one run of one rule.
type check struct {
	*testing.T
	*suite
}

// each runs one of the cases of a rule.
func (c *check) each(name string, run func(c *check)) {
	c.Run(name, func(t *testing.T) { run(&check{T: t, suite: c.suite}) })
}

// ctx bounds a call that may block.
func (c *check) ctx() context.Context {
	ctx, cancel := context.WithTimeout(c.Context(), c.timing.Wait)
	c.Cleanup(cancel)
	return ctx
}

// settle waits until operations without an event have taken effect.
func (c *check) settle() {
	if c.timing.Settled != nil {
		c.timing.Settled()
		return
	}
	time.Sleep(c.timing.Settle)
}

// resource returns a name that nobody has used before.
func (c *check) resource() string {
	c.names++
	name := fmt.Sprintf("%s-%d", c.place.name, c.names)
	if c.place.master {
		c.client(c.rig.Nodes()-1).lock(name, dlm.NL, 0)
	}
	return name
}

// client returns the process of a role: 0 is the holder, 1 and 2 come later.
func (c *check) client(role int) *client { return &client{c, c.session(c, role)} }

// client is a process as a rule uses it. Its methods end the rule if something unexpected happens.
type client struct {
	check *check
	*session
}

// ask requests a lock and does not wait.
func (c *client) ask(name string, m dlm.Mode, f dlm.Flags) dlm.Cookie {
	ck := dlm.Cookie(c.cookies.Add(1))
	c.space.Lock(ck, name, m, f)
	return ck
}

// try requests a lock and returns how that ended.
func (c *client) try(name string, m dlm.Mode, f dlm.Flags) (dlm.Cookie, dlm.Event) {
	c.check.Helper()
	ck := c.ask(name, m, f)
	return ck, c.ended(ck, dlm.OpLock)
}

// ended takes the end of an operation.
func (c *client) ended(ck dlm.Cookie, op dlm.Op) dlm.Event {
	c.check.Helper()
	ev := c.events.Completed(c.check, ck)
	require.Equal(c.check, op, ev.Op)
	return ev
}

// lock requests a lock that must be granted.
func (c *client) lock(name string, m dlm.Mode, f dlm.Flags) dlm.Cookie {
	c.check.Helper()
	ck := c.ask(name, m, f)
	c.granted(ck, dlm.OpLock, m)
	return ck
}

// granted takes the successful end of a Lock, Convert or Adopt.
func (c *client) granted(ck dlm.Cookie, op dlm.Op, m dlm.Mode) dlm.Event {
	c.check.Helper()
	ev := c.ended(ck, op)
	require.Equal(c.check, dlm.StatusOK, ev.Status)
	require.Equal(c.check, m, ev.Mode)
	require.NotZero(c.check, ev.LockID)
	return ev
}

// queued requests a lock that has to wait.
func (c *client) queued(name string, m dlm.Mode, f dlm.Flags) dlm.Cookie {
	c.check.Helper()
	ck := c.ask(name, m, f)
	c.check.settle()
	c.waits(ck)
	return ck
}

// waits asserts that no operation on a lock has ended.
func (c *client) waits(ck dlm.Cookie) {
	c.check.Helper()
	for _, ev := range c.events.Untaken(ck) {
		require.NotEqual(c.check, dlm.Completed, ev.Kind, "%v ended with %v, and should wait", ev.Op, ev.Status)
	}
}

// refused asserts that a lock can't be granted now.
func (c *client) refused(name string, m dlm.Mode) {
	c.check.Helper()
	_, ev := c.try(name, m, dlm.NoQueue)
	require.Equal(c.check, dlm.StatusAgain, ev.Status)
	require.Equal(c.check, dlm.None, ev.Mode)
}

// convert changes a lock and returns how that ended.
func (c *client) convert(ck dlm.Cookie, m dlm.Mode, f dlm.Flags, v *dlm.Value) dlm.Event {
	c.check.Helper()
	c.space.Convert(ck, m, f, v)
	return c.ended(ck, dlm.OpConvert)
}

// converted converts a lock and asserts success.
func (c *client) converted(ck dlm.Cookie, m dlm.Mode, f dlm.Flags, v *dlm.Value) dlm.Event {
	c.check.Helper()
	c.space.Convert(ck, m, f, v)
	return c.granted(ck, dlm.OpConvert, m)
}

// converting starts a conversion that has to wait.
func (c *client) converting(ck dlm.Cookie, m dlm.Mode, f dlm.Flags) {
	c.check.Helper()
	c.space.Convert(ck, m, f, nil)
	c.check.settle()
	c.waits(ck)
}

// unlock releases a lock.
func (c *client) unlock(ck dlm.Cookie) {
	c.check.Helper()
	c.unlockWith(ck, nil)
}

func (c *client) unlockWith(ck dlm.Cookie, v *dlm.Value) {
	c.check.Helper()
	c.space.Unlock(ck, v)
	ev := c.ended(ck, dlm.OpUnlock)
	require.Equal(c.check, dlm.StatusUnlocked, ev.Status)
	require.Equal(c.check, dlm.None, ev.Mode)
}

// adopt tries to take over an orphan.
func (c *client) adopt(name string, m dlm.Mode, f dlm.Flags) (dlm.Cookie, dlm.Event) {
	c.check.Helper()
	ck := dlm.Cookie(c.cookies.Add(1))
	c.space.Adopt(ck, name, m, f)
	return ck, c.ended(ck, dlm.OpAdopt)
}

// adopted takes over an orphan and asserts success.
func (c *client) adopted(name string, m dlm.Mode, id dlm.LockID) dlm.Cookie {
	c.check.Helper()
	ck, ev := c.adopt(name, m, dlm.Persistent)
	require.Equal(c.check, dlm.StatusOK, ev.Status)
	require.Equal(c.check, m, ev.Mode)
	require.Equal(c.check, id, ev.LockID, "the original lockid")
	return ck
}

// persistent takes a lock as the daemon does: without Persistent, which an in-place conversion sets
// after the grant.
func (c *client) persistent(name string, m dlm.Mode) (dlm.Cookie, dlm.LockID) {
	c.check.Helper()
	ck := c.lock(name, m, 0)
	return ck, c.converted(ck, m, dlm.Persistent, nil).LockID
}

// quiet asserts that no more events of a lock have come.
func (c *client) quiet(ck dlm.Cookie) {
	c.check.Helper()
	c.check.settle()
	require.Empty(c.check, c.events.Untaken(ck))
}

// told takes a blocking notification for a mode; notifications for weaker modes may come before it.
func (c *client) told(ck dlm.Cookie, m dlm.Mode) {
	c.check.Helper()
	for c.events.Blocking(c.check, ck).Mode != m {
	}
}

// read reads the value block without waiting and without keeping a lock.
func (c *client) read(name string) dlm.Event {
	c.check.Helper()
	ck, ev := c.try(name, dlm.NL, dlm.Expedite|dlm.ValueBlock)
	require.Equal(c.check, dlm.StatusOK, ev.Status)
	require.True(c.check, ev.HasValue)
	c.unlock(ck)
	return ev
}

// kill ends the process; a later client of the role is a new one on the node.
func (c *client) kill() {
	c.process.Kill()
	c.dead = true
}
