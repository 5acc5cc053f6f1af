package varlink

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/queue"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// resumingDoor is a Door with connections from before the restart whose calls are about the lock ref.
func resumingDoor(ref api.Ref, connections int) (*Door, []*inheritance) {
	d := &Door{holders: make(map[api.Ref]map[*call]struct{}),
		resuming: make(map[api.Ref]map[*inheritance]*api.BlockingNotice)}
	d.looking = true // nothing looks at the locks
	var of []*inheritance
	for range connections {
		i := &inheritance{mark: wire.Open}
		i.ref = ref
		d.expectResumed(i)
		of = append(of, i)
	}
	return d, of
}

// goesOn has the call of a connection from before the restart go on.
func goesOn(d *Door, i *inheritance) *call {
	c := &call{door: d, replies: queue.New[message](0)}
	d.holdOn(i, c)
	return c
}

// toldOf are the modes of the waits that a call was told of. It knows them as soon as it holds on,
// so a later notice comes after them.
func toldOf(c *call) (modes []string) {
	for _, m := range c.replies.Take(nil).Items {
		modes = append(modes, strings.ToUpper(m.make().(acquireOut).Blocking.Mode))
	}
	return modes
}

// A call from before the restart learns who has been blocked since, even if it goes on only later.
func TestBlockedBeforeACallGoesOn(t *testing.T) {
	d, of := resumingDoor(7, 1)
	n := &api.BlockingNotice{LockInfo: api.LockInfo{Ref: 7}, Blocked: dlm.EX}
	require.Empty(t, d.blocked(&api.BlockingNotice{LockInfo: api.LockInfo{Ref: 8}}))
	require.Empty(t, d.blocked(n))
	c := goesOn(d, of[0])
	require.Equal(t, []string{"EX"}, toldOf(c))
	require.Equal(t, []*call{c}, d.blocked(n))
	require.Empty(t, toldOf(goesOn(d, of[0])), "it has been told")

	d.expectResumed(of[0])
	d.blocked(n)
	c = &call{door: d, conn: &conn{}, wire: &wire.Call{Resumed: wire.Open, Conn: &wire.Conn{Restored: of[0]}}}
	c.resume()
	c.ended(nil)
	require.Empty(t, d.resuming, "its client has gone before it went on")
}

// What is kept for a call from before the restart is not used up by other calls for the same lock: its
// owner has asked for it on a new connection, or on two of those that were kept.
func TestBlockedIsKeptForEachCall(t *testing.T) {
	d, of := resumingDoor(7, 2)
	before := &api.BlockingNotice{LockInfo: api.LockInfo{Ref: 7}, Blocked: dlm.PR}
	require.Empty(t, d.blocked(before))
	fresh := &call{door: d, conn: &conn{}, replies: queue.New[message](0)}
	(&acquire{holds: true}).granted(fresh, api.Grant{Ref: 7, New: true}, nil)
	first := goesOn(d, of[0])
	require.Equal(t, []string{"PR"}, toldOf(first))
	after := &api.BlockingNotice{LockInfo: api.LockInfo{Ref: 7}, Blocked: dlm.EX}
	require.ElementsMatch(t, []*call{fresh, first}, d.blocked(after))
	require.Equal(t, []string{"EX"}, toldOf(goesOn(d, of[1])))
	require.Empty(t, d.resuming)
}
