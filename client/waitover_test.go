package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The error of a wait that is over says so in the words of this package, and says who holds the
// lock and what to do, whichever call has waited.
func TestWaitIsOver(t *testing.T) {
	both(t, func(t *testing.T, r *real, c *Client) {
		ctx := t.Context()
		disk := Want{"vms", "disk", "exclusive"}
		_, err := c.Acquire(ctx, Want{"vms", "disk", "PR"}, Options{Label: "the disk"})
		require.NoError(t, err)
		_, err = c.Acquire(ctx, Want{"vms", "disk", "PR"}, Options{Owner: "mine"})
		require.NoError(t, err)

		short := Options{Wait: time.Millisecond}
		held := `not granted within 1ms; held by "the disk" (this node, PR)`
		options := `; a larger Options.Wait waits longer, a negative one without limit, and Inspect shows who is in the way`
		own := Selector{Owner: "mine"}
		both := held + `, "mine" (this node, PR)` + options
		for _, tc := range []struct {
			text string
			call func() error
		}{
			{"acquire vms/disk EX: " + both, func() error {
				_, err := c.Acquire(ctx, disk, short)
				return err
			}},
			{"acquire vms/disk EX: " + both, func() error { // as for a wait that is longer than one call
				_, err := c.acquireLong(ctx, disk, short)
				return err
			}},
			{"acquire vms/free EX, vms/disk EX: not granted within 1ms; vms/disk is held by " +
				`"the disk" (this node, PR), "mine" (this node, PR)` + options, func() error {
				_, _, err := c.LockAll(ctx, []Want{{"vms", "free", ""}, disk}, short)
				return err
			}},
			{"convert vms/disk EX: " + held + "; a larger wait waits longer, a negative one without limit, and Inspect " +
				"shows who is in the way", func() error {
				_, err := c.Convert(ctx, disk, own, time.Millisecond)
				return err
			}},
		} {
			err := tc.call()
			require.ErrorIs(t, err, Timeout)
			require.EqualError(t, err, tc.text)
		}
	})
}

// Only the service knows which lock a Selector means that says nothing, so its error stays: that
// names who is in the way.
func TestWaitOfAnyLockIsOver(t *testing.T) {
	service := &Error{Op: "Convert", Kind: Timeout, Message: "not granted; held by this node (PR, uid 7)"}
	want := []Want{{"vms", "disk", "EX"}}
	require.Same(t, service, new(Client).waitOver(t.Context(), service, want, Selector{}, time.Second))
}

// Holders on other nodes are named by what they have published.
func TestHoldersOnOtherNodes(t *testing.T) {
	in := Inspection{
		Locks: []Lock{{LockID: 1, Mode: "CR", PID: 7, State: "held"}, {LockID: 2, Mode: "PR", PID: 8, State: "held"},
			{State: "acquiring", Wanted: "EX"}},
		Granted: []Queued{{LockID: 1, Node: 1, Mode: "CR"}, {LockID: 9, Node: 2, Mode: "PW"}, {Node: 3, Mode: "NL"},
			{Node: 3, Mode: "PR"}},
		Holder: &Holder{Node: 2, Mode: "PW", Who: "web"},
	}
	require.Equal(t, []string{"process 8 (this node, PR)", `"web" (node 2, PW)`, "node 3 (PR)"},
		names(in.Obstacles("CW", Selector{})))
	require.Equal(t, []string{`"web" (node 2, PW)`, "node 3 (PR)"}, names(in.Obstacles("CW", Selector{LockID: 2})))
	require.Equal(t, []string{`"web" (node 2, PW)`}, names((&Inspection{Holder: in.Holder}).Obstacles("EX", Selector{})))
	require.Empty(t, names((&Inspection{Holder: &Holder{Who: "gone"}}).Obstacles("EX", Selector{})))
}
