package table

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A flood of locks does not use up the lines that journald keeps, and how much of
// it is not in the log is said once in each period.
func TestHistoryIsBounded(t *testing.T) {
	var h history
	now := time.Unix(1e9, 0)
	written := 0
	for range 10 * historyLines {
		ok, missed := h.room(now)
		require.Zero(t, missed)
		if ok {
			written++
		}
		now = now.Add(time.Millisecond)
	}
	require.Equal(t, historyLines, written)
	now = now.Add(historyPeriod)
	ok, missed := h.room(now)
	require.True(t, ok)
	require.Equal(t, 9*historyLines, missed)
	_, missed = h.room(now)
	require.Zero(t, missed)
}
