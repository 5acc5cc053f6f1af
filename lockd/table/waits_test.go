package table

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Who waits for whom follows the DLM's rules: conversions for what they can't
// live with, new locks for the one before them.
func TestWaits(t *testing.T) {
	held := func(node uint32, id dlm.LockID, mode, wanted dlm.Mode) dlm.Held {
		return dlm.Held{Node: node, LockID: id, Mode: mode, Wanted: wanted}
	}
	const none = dlm.None
	for name, tc := range map[string]struct {
		in   api.Inspection
		want string
	}{
		"nobody": {api.Inspection{HasQueues: true, Queues: dlm.Queues{Complete: true,
			Granted: []dlm.Held{held(1, 1, dlm.EX, none)}}}, ""},
		"a chain": {api.Inspection{HasQueues: true, Queues: dlm.Queues{Complete: true,
			Granted: []dlm.Held{held(1, 1, dlm.EX, none)},
			Waiting: []dlm.Held{held(2, 2, none, dlm.PR), held(3, 3, none, dlm.PR), held(2, 4, none, dlm.EX)}}},
			"2/2 PR > 1/1 EX, 3/3 PR > 2/2 PR, 2/4 EX > 3/3 PR"},
		"several holders": {api.Inspection{HasQueues: true, Queues: dlm.Queues{Complete: true,
			Granted: []dlm.Held{held(1, 1, dlm.PR, none), held(2, 2, dlm.PR, none),
				held(2, 5, dlm.NL, none)}, Waiting: []dlm.Held{held(3, 3, none, dlm.EX)}}},
			"3/3 EX > 1/1 PR, 3/3 EX > 2/2 PR"},
		"conversions first": {api.Inspection{HasQueues: true,
			Queues: dlm.Queues{Complete: true, Granted: []dlm.Held{held(2, 2, dlm.CR, none)},
				Converting: []dlm.Held{held(1, 1, dlm.CR, dlm.EX),
					held(3, 3, dlm.NL, dlm.CR)}, Waiting: []dlm.Held{held(2, 4, none, dlm.CR)}}},
			"1/1 EX > 2/2 CR, 3/3 CR > 1/1 CR, 2/4 CR > 3/3 NL"},
		"the name that was published": {api.Inspection{HasQueues: true, HasHolder: true,
			Holder: api.Holder{Node: 2, Mode: dlm.EX, Who: "vm2"},
			Queues: dlm.Queues{Complete: true, Granted: []dlm.Held{held(2, 2, dlm.EX, none)},
				Waiting: []dlm.Held{held(3, 3, none, dlm.CR)}}},
			"3/3 CR > vm2 2/2 EX"},
	} {
		tab := testTable()
		tab.conf.Node.ID = 1
		var got []string
		for _, w := range waits(tab, tab.space("vms"), &tc.in) {
			side := func(p api.Party) string {
				return strings.TrimPrefix(fmt.Sprintf("%s %d/%d %s", p.Who, p.Node, p.LockID, p.Mode), " ")
			}
			got = append(got, side(w.Waiter)+" > "+side(w.For))
		}
		require.Equal(t, tc.want, strings.Join(got, ", "), name)
	}
}

// Of ten thousand that wait, a hundred are shown.
func TestWaitsAreBounded(t *testing.T) {
	in := api.Inspection{HasQueues: true, Queues: dlm.Queues{Complete: true,
		Granted: []dlm.Held{{Node: 1, LockID: 1, Mode: dlm.EX, Wanted: dlm.None}}}}
	for i := range 10_000 {
		in.Queues.Waiting = append(in.Queues.Waiting, dlm.Held{Node: 2, LockID: dlm.LockID(i + 2), Mode: dlm.None,
			Wanted: dlm.EX})
	}
	tab := testTable()
	require.Len(t, waits(tab, tab.space("vms"), &in), maxWaits)
}
