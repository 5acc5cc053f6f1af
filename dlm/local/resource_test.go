package local_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/dlmtest"
	"github.com/dlmlock/dlmlockd/dlm/local"
)

// TestNotificationsExactly tests what the conformance suite can't, because a real cluster may
// repeat a notification or be late with it: exactly which notifications are sent.
func TestNotificationsExactly(t *testing.T) {
	tests := []struct {
		name string
		held dlm.Mode
		do   func(holder, other dlm.Lockspace)
		told []dlm.Mode
	}{
		{"once for each higher mode", dlm.EX, func(_, o dlm.Lockspace) {
			o.Lock(1, "r", dlm.PR, 0)
			o.Lock(2, "r", dlm.PR, 0)
			o.Lock(3, "r", dlm.CR, 0)
			o.Lock(4, "r", dlm.EX, 0)
			o.Lock(5, "r", dlm.PW, 0)
		}, []dlm.Mode{dlm.PR, dlm.EX}},
		{"not again after the one that waited was canceled", dlm.PR, func(_, o dlm.Lockspace) {
			o.Lock(1, "r", dlm.EX, 0)
			o.Cancel(1)
			o.Lock(2, "r", dlm.EX, 0)
		}, []dlm.Mode{dlm.EX}},
		{"again after a conversion in place", dlm.PR, func(h, o dlm.Lockspace) {
			o.Lock(1, "r", dlm.EX, 0)
			h.Convert(1, dlm.PR, dlm.Persistent, nil)
		}, []dlm.Mode{dlm.EX, dlm.EX}},
		{"not after a conversion to a mode that is not in the way", dlm.PW, func(h, o dlm.Lockspace) {
			o.Lock(1, "r", dlm.PR, 0)
			o.Lock(2, "r", dlm.PW, 0)
			h.Convert(1, dlm.CR, 0, nil)
		}, []dlm.Mode{dlm.PR, dlm.PW}},
		{"CW to a PR holder though PR is the higher number", dlm.PR, func(_, o dlm.Lockspace) {
			o.Lock(1, "r", dlm.CW, 0)
			o.Lock(2, "r", dlm.PR, 0)
		}, []dlm.Mode{dlm.CW}},
		{"PR to a CW holder after CW did not disturb it", dlm.CW, func(_, o dlm.Lockspace) {
			o.Lock(1, "r", dlm.CW, 0)
			o.Lock(2, "r", dlm.PR, 0)
		}, []dlm.Mode{dlm.PR}},
		{"the highest of those that wait after a grant", dlm.CR, func(h, o dlm.Lockspace) {
			o.Lock(1, "r", dlm.PW, 0)
			o.Lock(2, "r", dlm.PR, 0)
			o.Lock(3, "r", dlm.EX, 0)
			h.Convert(1, dlm.CR, 0, nil)
		}, []dlm.Mode{dlm.EX, dlm.EX}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			node := local.NewCluster("test").AddNode(1)
			holder, events := open(t, node.Engine(), "vms")
			other, _ := open(t, node.Engine(), "vms")
			holder.Lock(1, "r", tt.held, 0)
			tt.do(holder, other)
			require.Equal(t, tt.told, told(events, 1))
		})
	}
}

func told(events *dlmtest.Events, c dlm.Cookie) (modes []dlm.Mode) {
	for _, ev := range events.Untaken(c) {
		if ev.Kind == dlm.Blocking {
			modes = append(modes, ev.Mode)
		}
	}
	return modes
}
