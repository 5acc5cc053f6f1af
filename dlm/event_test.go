package dlm_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// TestStatus has one line for each status that follows from a rule, and for one errno and one code
// that don't.
func TestStatus(t *testing.T) {
	tests := []struct {
		status dlm.Status
		code   int
		ok     bool
		errno  syscall.Errno
		text   string
	}{
		{dlm.StatusOK, 0, true, 0, "ok"},
		{dlm.StatusUnlocked, 0x10002, true, 0, "EUNLOCK"},
		{dlm.StatusCanceled, 0x10001, false, 0, "ECANCEL"},
		{dlm.StatusProgress, 0x10003, false, 0, "EINPROG"},
		{dlm.StatusNotFound, 2, false, syscall.ENOENT, "ENOENT"},
		{dlm.StatusAgain, 11, false, syscall.EAGAIN, "EAGAIN"},
		{dlm.StatusBusy, 16, false, syscall.EBUSY, "EBUSY"},
		{dlm.StatusInvalid, 22, false, syscall.EINVAL, "EINVAL"},
		{dlm.StatusDeadlock, 35, false, syscall.EDEADLK, "EDEADLK"},
		{dlm.StatusGone, 107, false, syscall.ENOTCONN, syscall.ENOTCONN.Error()},
		{dlm.Status(syscall.EIO), 5, false, syscall.EIO, syscall.EIO.Error()},
		{0x10009, 0x10009, false, 0, "status 0x10009"},
		{-1, -1, false, 0, "status -0x1"},
	}
	for _, tt := range tests {
		require.EqualValues(t, tt.code, tt.status)
		require.Equal(t, tt.ok, tt.status.OK(), tt.text)
		require.Equal(t, tt.errno, tt.status.Errno(), tt.text)
		require.Equal(t, tt.text, tt.status.String())
	}
}

func TestEventWords(t *testing.T) {
	for op, want := range map[dlm.Op]string{
		dlm.OpNone: "notice", dlm.OpLock: "lock", dlm.OpConvert: "convert", dlm.OpUnlock: "unlock",
		dlm.OpAdopt: "adopt", dlm.OpPurge: "purge", 99: "Op(99)",
	} {
		require.Equal(t, want, op.String())
	}
	for kind, want := range map[dlm.EventKind]string{
		dlm.Completed: "completed", dlm.Blocking: "blocking", dlm.Ended: "ended", dlm.Closed: "closed",
		0: "EventKind(0)",
	} {
		require.Equal(t, want, kind.String())
	}
}

// TestFlags: the values are passed to the kernel unchanged (include/uapi/linux/dlmconstants.h).
func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		flag dlm.Flags
		bits uint32
		text string
	}{
		{dlm.NoQueue, 0x1, "NOQUEUE"},
		{dlm.ValueBlock, 0x8, "VALBLK"},
		{dlm.QueueConvert, 0x10, "QUECVT"},
		{dlm.Persistent, 0x80, "PERSISTENT"},
		{dlm.Expedite, 0x400, "EXPEDITE"},
		{dlm.NoQueueBlocking, 0x800, "NOQUEUEBAST"},
	} {
		require.EqualValues(t, tt.bits, tt.flag)
		require.Equal(t, tt.text, tt.flag.String())
	}
	require.Equal(t, "0x0", dlm.Flags(0).String())
	require.Equal(t, "VALBLK|PERSISTENT", (dlm.Persistent | dlm.ValueBlock).String())
	require.Equal(t, "NOQUEUE|0x40000", (dlm.NoQueue | 0x40000).String())
}
