package dlm_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// The table is written as in the kernel; this is how a person would put it.
func TestTransferOf(t *testing.T) {
	for _, from := range dlm.Modes {
		for _, to := range dlm.Modes {
			want := dlm.Stays
			switch {
			case from >= dlm.PW && to <= from:
				want = dlm.Writes
			case to >= from:
				want = dlm.Reads
			}
			require.Equal(t, want, dlm.TransferOf(from, to), "%v to %v", from, to)
		}
		require.Equal(t, dlm.Reads, dlm.TransferOf(dlm.None, from), "a new lock")
		require.Equal(t, dlm.Stays, dlm.TransferOf(from, dlm.None))
	}
}
