package main

import (
	"runtime/debug"
	goruntime "runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A start collects no garbage while it reads, little while it adopts, and leaves the setting as it was.
func TestGarbageIsCollectedAgainAfterAStart(t *testing.T) {
	percent := func() uint64 {
		s := []goruntime.Sample{{Name: "/gc/gogc:percent"}}
		goruntime.Read(s)
		return s[0].Value.Uint64()
	}
	const usual, off = 130, ^uint64(0)
	before := debug.SetGCPercent(usual)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "")
	p := hurryGC()
	require.Equal(t, off, percent())
	p.adopting()
	require.EqualValues(t, startGC, percent())
	p.end()
	require.Eventually(t, func() bool { return percent() == usual }, time.Minute, time.Millisecond)

	t.Setenv("GOGC", "200")
	p = hurryGC()
	p.adopting()
	p.end()
	require.EqualValues(t, usual, percent())
}
