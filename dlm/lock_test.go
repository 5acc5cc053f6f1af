package dlm_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

func TestLockAllowed(t *testing.T) {
	for _, m := range dlm.Modes {
		require.True(t, dlm.LockAllowed(m, 0))
		require.True(t, dlm.LockAllowed(m, dlm.NoQueue|dlm.ValueBlock|dlm.Persistent|dlm.NoQueueBlocking))
		require.Equal(t, m == dlm.NL, dlm.LockAllowed(m, dlm.Expedite|dlm.ValueBlock), "%v", m)
		require.False(t, dlm.LockAllowed(m, dlm.Expedite|dlm.NoQueue), "%v", m)
		require.False(t, dlm.LockAllowed(m, dlm.QueueConvert), "%v", m)
		require.False(t, dlm.LockAllowed(m, 0x4), "%v: CONVERT is a method", m)
	}
	require.False(t, dlm.LockAllowed(dlm.None, 0))
	require.False(t, dlm.LockAllowed(6, 0))
}

// TestConvertAllowed compares QueueConvert with the kernel's matrix, in which the row is the
// granted mode (__quecvt_compat_matrix).
func TestConvertAllowed(t *testing.T) {
	matrix := map[dlm.Mode]string{
		//      NL CR CW PR PW EX
		dlm.NL: "0  1  1  1  1  1",
		dlm.CR: "0  0  1  1  1  1",
		dlm.CW: "0  0  0  1  1  1",
		dlm.PR: "0  0  1  0  1  1",
		dlm.PW: "0  0  0  0  0  1",
		dlm.EX: "0  0  0  0  0  0",
	}
	for _, from := range dlm.Modes {
		for _, to := range dlm.Modes {
			require.True(t, dlm.ConvertAllowed(from, to, dlm.NoQueue|dlm.ValueBlock|dlm.Persistent))
			want := strings.Fields(matrix[from])[to] == "1"
			require.Equal(t, want, dlm.ConvertAllowed(from, to, dlm.QueueConvert), "%v to %v", from, to)
			require.False(t, dlm.ConvertAllowed(from, to, dlm.Expedite), "%v to %v", from, to)
			require.False(t, dlm.ConvertAllowed(from, to, 0x4), "%v to %v", from, to)
		}
		require.False(t, dlm.ConvertAllowed(from, dlm.None, 0))
		require.False(t, dlm.ConvertAllowed(from, 6, 0))
	}
}
