package main

import (
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/boottime"
)

// CLOCK_BOOTTIME is derived where that is certain to be the same, and read otherwise.
func TestBootClock(t *testing.T) {
	now, up, reads, slow := time.Now(), time.Hour, 0, time.Duration(0)
	c := bootClock{now: func() time.Time { return now }}
	c.boot = func() (time.Duration, error) {
		reads++
		up, now = up+slow, now.Add(slow)
		return up, nil
	}
	pass := func(d time.Duration) { now, up = now.Add(d), up+d }
	check := func(wantReads int, what string) {
		t.Helper()
		wall, got := c.read()
		require.False(t, wall.After(now))
		require.Equal(t, up, got, what)
		require.Equal(t, wantReads, reads, what)
	}
	check(1, "the first reading")
	pass(999 * time.Millisecond)
	check(1, "it is derived")
	pass(time.Millisecond)
	check(2, "it is read again after a while")
	slow = time.Millisecond
	pass(time.Second)
	check(3, "a reading that takes long")
	slow = 0
	check(4, "nothing is derived from it")
	pass(time.Millisecond)
	check(4, "it is derived")
	// The clock of the host can't be set here; what read compares is.
	c.at = c.at.Round(0).Add(-time.Hour)
	up += time.Hour // suspended
	check(5, "after a suspend")
	up -= time.Minute
	c.at = time.Time{}
	_, got := c.read()
	require.Equal(t, up+time.Minute, got, "it never goes back")
}

// suspended is a time at which only the wall clock has gone on: package time has no way to make one.
func suspended(t time.Time, d time.Duration) time.Time {
	t = t.Add(d)
	(*struct {
		wall      uint64
		monotonic int64
		loc       *time.Location
	})(unsafe.Pointer(&t)).monotonic -= int64(d)
	return t
}

// A suspend just after CLOCK_BOOTTIME was read is not missed.
func TestBootClockSuspendedWhileItIsRead(t *testing.T) {
	now, reads := time.Now(), 0
	c := bootClock{now: func() time.Time { return now }}
	c.boot = func() (time.Duration, error) {
		if reads++; reads == 1 {
			now = suspended(now, time.Hour)
		}
		return time.Minute, nil
	}
	before := now
	c.read()
	require.Zero(t, now.Sub(before))
	require.Equal(t, time.Hour, now.Round(0).Sub(before.Round(0)))
	require.True(t, c.at.IsZero(), "nothing is derived from it")
	c.read()
	require.Equal(t, 2, reads)
}

// It says what the kernel says, and never goes back.
func TestBootClockOfTheHost(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last time.Duration
			for range 10000 {
				before, err := boottime.Now()
				if err != nil {
					t.Error(err)
					return
				}
				_, up := clocks()
				after, _ := boottime.Now()
				if up < last || up < before-2*steady || up > after {
					t.Errorf("%v after %v, between %v and %v", up, last, before, after)
					return
				}
				last = up
			}
		})
	}
	wg.Wait()
}
