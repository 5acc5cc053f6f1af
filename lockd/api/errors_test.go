package api

import (
	"errors"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

func TestErrorText(t *testing.T) {
	cause := errors.New("cause")
	for _, tc := range []struct {
		err  Error
		want string
	}{
		{Error{Op: "acquire", Lockspace: "vms", Resource: "disk1", Mode: dlm.EX, Kind: WouldBlock,
			Text: "another lock is in the way", Holder: &HeldBy{Node: 2, Mode: dlm.EX}},
			"acquire vms/disk1 EX: another lock is in the way; held by node 2 (EX)"},
		{Error{Op: "release", Lockspace: "vms", Resource: "a\nb\xff", Mode: dlm.EX, Kind: NotHeld,
			Text: "no lock here matches"},
			`release vms/a\nb\xff: no lock here matches`},
		{Error{Op: "convert", Lockspace: "vms", Resource: "disk1", Mode: dlm.None, Kind: KernelError,
			Errno: syscall.ENOMEM, Text: "refused"},
			"convert vms/disk1: refused (cannot allocate memory)"},
		{Error{Op: "leave", Lockspace: "vms", Kind: LockspaceInUse, Text: "locks are held"}, "leave vms: locks are held"},
		{Error{Op: "list", Kind: ShuttingDown, Text: "the service has stopped", Err: cause}, "list: the service has stopped"},
	} {
		require.Equal(t, tc.want, tc.err.Error())
		require.ErrorIs(t, &tc.err, tc.err.Kind)
		require.Equal(t, tc.err.Err != nil, errors.Is(&tc.err, cause))
		require.NotErrorIs(t, &tc.err, Deadlock)
	}
}
