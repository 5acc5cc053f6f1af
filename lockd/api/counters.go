package api

import "time"

// Counters only grow while the service runs.
type Counters struct {
	Granted, Released, Converted, Lost uint64 // locks
	Refused, Canceled                  uint64 // calls: answered with an error; of those, withdrawn by or with the caller
	Latency                            Latency
}

// LatencyBounds are the upper bounds of the buckets of Latency. The last bucket, after
// these, is unbounded.
var LatencyBounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 5 * time.Second, 20 * time.Second, time.Minute, time.Hour,
}

// Latency is how long the calls took that ended in a grant, from when the
// service had them until they were answered, waiting included.
type Latency struct {
	Buckets [len(LatencyBounds) + 1]uint64 // calls that took as long, not cumulative
	Sum     time.Duration
}

// Cumulative returns the buckets as histograms are published: each counts those before it as well, so the last
// one is the count of all calls.
func (l *Latency) Cumulative() [len(LatencyBounds) + 1]uint64 {
	sums := l.Buckets
	for i := 1; i < len(sums); i++ {
		sums[i] += sums[i-1]
	}
	return sums
}

// Count is how many calls that are.
func (l *Latency) Count() uint64 { return l.Cumulative()[len(LatencyBounds)] }

// Observe counts one duration.
func (l *Latency) Observe(d time.Duration) {
	i := 0
	for i < len(LatencyBounds) && d > LatencyBounds[i] {
		i++
	}
	l.Buckets[i]++
	l.Sum += d
}
