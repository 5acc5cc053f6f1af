package main

import (
	"runtime"
	"runtime/debug"
	goruntime "runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A start collects no garbage while it reads, little while it adopts, and leaves the setting as it was.
func TestGarbageIsCollectedAgainAfterAStart(t *testing.T) {
	read := func(name string) uint64 {
		s := []goruntime.Sample{{Name: name}}
		goruntime.Read(s)
		return s[0].Value.Uint64()
	}
	percent := func() uint64 { return read("/gc/gogc:percent") }
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
	runtime.GC()
	require.Greater(t, read("/gc/heap/goal:bytes"), uint64(2*headroomBytes), "a service with few locks has headroom")

	t.Setenv("GOGC", "200")
	p = hurryGC()
	p.adopting()
	p.end()
	require.EqualValues(t, usual, percent())
}
