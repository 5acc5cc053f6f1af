package state

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// benchDir is a directory on a tmpfs.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "dlmlockd-state-")
	require.NoError(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func benchLock(id uint64) Lock {
	return Lock{
		ID: id, Lockspace: "vms", Resource: fmt.Sprintf("pool0/volume-%08d", id), LockID: dlm.LockID(id), Mode: dlm.EX,
		Phase: Granted, Token: id, Owner: fmt.Sprintf("5f3c1f9e-66f0-4a9b-8f6d-%012d", id), HasOwner: true,
		Label: fmt.Sprintf("/var/lib/libvirt/images/volume-%08d.qcow2", id), UID: 0, PID: 4242, PIDStart: 123456,
		Session: ":1.42", SessionBus: "0123456789abcdef0123456789abcdef", Since: time.Unix(1767225600, int64(id)*1000).UTC(),
	}
}

func benchOpen(b *testing.B, dir string, min int64) (*File, Contents) {
	f, c, err := Open(dir, Options{Header: Header{BootID: "boot", Engine: "dlm", Cluster: "c", NodeID: 1}, Log: quiet(),
		CompactMin: min})
	require.NoError(b, err)
	return f, c
}

// BenchmarkAppend measures one record, with its write, on a tmpfs.
func BenchmarkAppend(b *testing.B) {
	records := map[string][]Change{"lock": {benchLock(1)}, "mark": {Mark{ID: 1, Phase: Held}}}
	for _, name := range []string{"lock", "mark"} {
		b.Run(name, func(b *testing.B) {
			f, _ := benchOpen(b, benchDir(b), 16<<20)
			defer f.Close()
			b.ReportAllocs()
			for b.Loop() {
				if err := f.Append(records[name]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEncode measures the part of BenchmarkAppend that is not the system call.
func BenchmarkEncode(b *testing.B) {
	l := benchLock(1)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = appendLock(buf[:0], &l)
	}
	b.SetBytes(int64(len(buf)))
}

func bench100k() []byte {
	buf := appendHeader(nil, Header{Format: format, BootID: "boot", Engine: "dlm", Cluster: "c", NodeID: 1,
		Instance: "i"}, 1)
	for id := uint64(1); id <= 100_000; id++ {
		l := benchLock(id)
		buf = appendLock(append(buf, '\n'), &l)
		buf = appendMark(append(buf, '\n'), &Mark{ID: id, Phase: Held})
	}
	return buf
}

// BenchmarkLoad100k loads 100,000 locks, each with the mark that it is held.
func BenchmarkLoad100k(b *testing.B) {
	dir := benchDir(b)
	require.NoError(b, os.WriteFile(filepath.Join(dir, stateName), bench100k(), 0o600))
	b.ReportAllocs()
	for b.Loop() {
		f, c := benchOpen(b, dir, 0)
		if len(c.Locks) != 100_000 || c.Locks[99_999].Phase != Held {
			b.Fatal("not what was written")
		}
		f.Close()
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, c := benchOpen(b, dir, 0)
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/100_000, "heap-B/lock")
	runtime.KeepAlive(c)
	f.Close()
}

// BenchmarkCompact compacts 100,000 locks while marks are appended without a pause, and reports the
// longest and the 99th percentile of the times of an Append.
func BenchmarkCompact(b *testing.B) {
	dir := benchDir(b)
	data := bytes.Clone(bench100k())
	var stalls []time.Duration
	for b.Loop() {
		b.StopTimer()
		require.NoError(b, os.WriteFile(filepath.Join(dir, stateName), data, 0o600))
		f, _ := benchOpen(b, dir, 1)
		mark := []Change{Mark{ID: 50_000, Phase: Held}}
		require.NoError(b, f.Append(mark))
		f.mu.Lock()
		f.use.live = 0 // as if everything were history
		f.mu.Unlock()
		b.StartTimer()
		for busy := true; busy; {
			start := time.Now()
			if err := f.Append(mark); err != nil {
				b.Fatal(err)
			}
			stalls = append(stalls, time.Since(start))
			f.mu.Lock()
			busy = f.compacting
			f.mu.Unlock()
		}
		require.NoError(b, f.Close())
	}
	slices.Sort(stalls)
	b.ReportMetric(float64(stalls[len(stalls)-1].Microseconds()), "stall-max-us")
	b.ReportMetric(float64(stalls[len(stalls)*99/100].Nanoseconds())/1000, "stall-p99-us")
}
