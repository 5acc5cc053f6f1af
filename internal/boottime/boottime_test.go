package boottime

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The start time of this process lies before now, and on the same scale: in ticks of 10 ms
// since the boot.
func TestNow(t *testing.T) {
	text, err := os.ReadFile("/proc/self/stat")
	require.NoError(t, err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	require.NoError(t, err)
	start := time.Duration(ticks) * 10 * time.Millisecond
	now, err := Now()
	require.NoError(t, err)
	require.GreaterOrEqual(t, now, start)
	require.Less(t, now-start, 24*time.Hour)
	later, err := Now()
	require.NoError(t, err)
	require.GreaterOrEqual(t, later, now)
}
