package dlm_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

func TestErrorIsItsSentinelAndItsErrno(t *testing.T) {
	err := fmt.Errorf("joining: %w", &dlm.Error{Op: "open", Lockspace: "vms", Errno: syscall.ENOENT,
		Err: dlm.ErrNoLockspace})
	require.ErrorIs(t, err, dlm.ErrNoLockspace)
	require.ErrorIs(t, err, syscall.ENOENT)
	require.NotErrorIs(t, err, dlm.ErrClosed)
	require.NotErrorIs(t, err, syscall.EIO)

	bare := &dlm.Error{Op: "open"}
	require.Empty(t, bare.Unwrap())
}

func TestErrorText(t *testing.T) {
	tests := []struct {
		err  dlm.Error
		want string
	}{
		{dlm.Error{Op: "node"}, `dlm: node`},
		{dlm.Error{Op: "open", Lockspace: "vms", Err: dlm.ErrNoLockspace},
			`dlm: open lockspace "vms": no such lockspace`},
		{dlm.Error{Op: "restore", Lockspace: "vms", Resource: "a\xff", Errno: syscall.EEXIST, Advice: "drop it"},
			`dlm: restore lockspace "vms" resource "a\xff": file exists (drop it)`},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, tt.err.Error())
	}
}

func TestCheckResource(t *testing.T) {
	for _, name := range []string{"a", "\x00", "\xff\xfe", "a b/c\n", strings.Repeat("ä", 32),
		strings.Repeat("x", dlm.MaxResourceName)} {
		require.NoError(t, dlm.CheckResource(name), "%q", name)
	}
	for _, name := range []string{"", strings.Repeat("x", dlm.MaxResourceName+1), strings.Repeat("ä", 33)} {
		require.ErrorIs(t, dlm.CheckResource(name), dlm.ErrName, "%q", name)
	}
}

func TestCheckLockspace(t *testing.T) {
	for _, name := range []string{"vms", "A-1_b.c+", "_", strings.Repeat("x", dlm.MaxLockspaceName)} {
		require.NoError(t, dlm.CheckLockspace(name), "%q", name)
	}
	for _, name := range []string{"", ".", "..", ".a", "a/b", "a b", "a\x00", "ä", "a\n", "\xff",
		strings.Repeat("x", dlm.MaxLockspaceName+1)} {
		require.ErrorIs(t, dlm.CheckLockspace(name), dlm.ErrName, "%q", name)
	}
	// What the error calls characters are no bytes of longer ones.
	require.ErrorContains(t, dlm.CheckLockspace(strings.Repeat("ä", 33)), "only letters")
	require.ErrorContains(t, dlm.CheckLockspace(strings.Repeat("x", 65)), "at most 64 characters, this one has 65")
}

// FuzzCheckLockspace: a name that passes is one file name below /dev/misc.
func FuzzCheckLockspace(f *testing.F) {
	for _, name := range []string{"vms", "", ".", "a/b", "\xff", "é"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if dlm.CheckLockspace(name) != nil {
			return
		}
		if name == "" || len(name) > dlm.MaxLockspaceName || name[0] == '.' || strings.ContainsAny(name, "/\x00 \n") {
			t.Fatalf("%q passed", name)
		}
	})
}
