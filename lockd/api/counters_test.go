package api_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

func TestLatencyBuckets(t *testing.T) {
	var l api.Latency
	for _, d := range []time.Duration{0, 100 * time.Microsecond, 101 * time.Microsecond, time.Second, 2 * time.Hour} {
		l.Observe(d)
	}
	require.Equal(t, uint64(5), l.Count())
	require.Equal(t, uint64(2), l.Buckets[0], "a bound belongs to its bucket")
	require.Equal(t, uint64(1), l.Buckets[1])
	require.Equal(t, uint64(1), l.Buckets[len(api.LatencyBounds)])
	for i := 1; i < len(api.LatencyBounds); i++ {
		require.Less(t, api.LatencyBounds[i-1], api.LatencyBounds[i])
	}
}
