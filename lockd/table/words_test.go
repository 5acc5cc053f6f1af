package table

import (
	"errors"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// An answer names the operation of its call, although a lockspace that fails
// fails every call that waits for it.
func TestAnswersNameTheirOperation(t *testing.T) {
	tab := testTable()
	sp := tab.space("vms")
	ops := []string{"join", "leave", "join"}
	for _, op := range ops {
		c := &call{t: tab, id: 1, name: op, heapIdx: -1}
		c.op = &joinOp{}
		sp.waiting = append(sp.waiting, c)
	}
	failure := spaceError(sp, syscall.EIO)
	sp.answer(failure)
	var got []string
	for _, a := range tab.out {
		if r, ok := a.(ReplyAction); ok {
			e, ok := errors.AsType[*api.Error](r.Err)
			require.True(t, ok)
			require.ErrorIs(t, e, syscall.EIO)
			got = append(got, e.Op)
		}
	}
	require.Equal(t, ops, got)
	require.Equal(t, "join", failure.Op)
}

// What the lock manager answers becomes an error that says what to do.
func TestStatusError(t *testing.T) {
	c, l := &call{name: "convert"}, &lock{sp: &lockspace{name: "vms"}, resource: "disk1"}
	for st, want := range map[dlm.Status]struct {
		kind api.Kind
		text string
	}{
		dlm.StatusAgain:          {api.WouldBlock, "try again later"},
		dlm.StatusDeadlock:       {api.Deadlock, "release it or try again"},
		dlm.StatusNotFound:       {api.NotHeld, "does not know the lock"},
		dlm.StatusGone:           {api.NoSuchLockspace, "join it again"},
		dlm.StatusCompletionLost: {api.KernelError, "release it and acquire it again"},
		dlm.Status(5):            {api.KernelError, "input/output error"},
	} {
		err := c.statusError(l, dlm.PR, st)
		require.ErrorIs(t, err, want.kind, "%v", st)
		require.ErrorContains(t, err, want.text)
	}
}
