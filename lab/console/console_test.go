package console

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestComplaintsAreRecognised(t *testing.T) {
	bad := []string{
		"[   12.3] WARNING: CPU: 0 PID: 1 at fs/dlm/lock.c:1234 unlock+0x1/0x2 [dlm]",
		"[   12.3] BUG: kernel NULL pointer dereference, address: 0000000000000000",
		"[   12.3] kernel BUG at lib/list_debug.c:49!",
		"[   12.3] Oops: 0002 [#1] PREEMPT SMP NOPTI",
		"[   12.3] general protection fault, probably for non-canonical address",
		"[   12.3] list_del corruption. next->prev should be ffff, but was 0000",
		"[   12.3] INFO: task dlm_recoverd:123 blocked for more than 120 seconds.",
		"[   12.3] Call Trace:",
		"[   12.3] dlm: shared: remwait error 1 reply 8 wait_type 2 overlap",
		"[   12.3] Kernel panic - not syncing: sysrq triggered crash",
		"[   12.3] Out of memory: Killed process 12 (corosync)",
		"lab: init failed: mount labroot on /host: no such device",
	}
	for _, line := range bad {
		w := &Watcher{}
		_, _ = w.Write([]byte("before\n" + line + "\r\nafter\n"))
		found := w.Findings()
		require.Len(t, found, 1, line)
		require.Equal(t, []string{"after"}, found[0].Context)
		require.Contains(t, Report("node1", found), line)
	}
	good := []string{
		"[    1.0] dlm: foo: joining the lockspace group...",
		"[    1.0] dlm: foo: dlm_recover 1 generation 1 done: 12 ms",
		"[    1.0] WARNING! this is a banner of some program",
		"[    1.0] clocksource: timekeeping watchdog on CPU0",
		"debug: DEBUG: everything is well",
	}
	w := &Watcher{}
	_, _ = w.Write([]byte(strings.Join(good, "\n") + "\n"))
	require.Empty(t, w.Findings())
	require.Empty(t, Report("node1", nil))
}

// Consoles come in pieces of any size, and all of it is kept.
func TestLinesAreJoinedFromPieces(t *testing.T) {
	var kept bytes.Buffer
	var found []string
	w := &Watcher{Log: &kept, Found: func(f Finding) { found = append(found, f.Line) }}
	text := "fine\nkernel BUG at x.c:1!\n"
	for i := range len(text) {
		n, err := w.Write([]byte{text[i]})
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	require.Equal(t, text, kept.String())
	require.Equal(t, []string{"kernel BUG at x.c:1!"}, found)
}

func TestATraceIsOneFinding(t *testing.T) {
	w := &Watcher{}
	_, _ = w.Write([]byte("WARNING: CPU: 0 PID: 1\nCall Trace:\n <TASK>\n---[ end trace 0 ]---\nBUG: another\n"))
	found := w.Findings()
	require.Len(t, found, 2)
	require.Equal(t, []string{"Call Trace:", " <TASK>", "---[ end trace 0 ]---"}, found[0].Context)
	require.Equal(t, "BUG: another", found[1].Line)
}

func TestExpectedComplaintsAreNoFindings(t *testing.T) {
	w := &Watcher{Found: func(f Finding) { require.NotContains(t, f.Line, "panic") }}
	stop := w.Expect(regexp.MustCompile("Kernel panic"))
	_, _ = w.Write([]byte("Kernel panic - not syncing\nCall Trace:\n---[ end Kernel panic ]---\n"))
	require.Empty(t, w.Findings())
	_, _ = w.Write([]byte("BUG: another\n---[ end trace ]---\n"))
	require.Len(t, w.Findings(), 1, "only what was expected is excused")
	require.Equal(t, 1, stop())
	w.Found = nil
	_, _ = w.Write([]byte("Kernel panic - not syncing\n"))
	require.Len(t, w.Findings(), 2, "expected no longer")
}

// What a node says after it has booted belongs to no trace of the previous boot.
func TestABootEndsATrace(t *testing.T) {
	w := &Watcher{}
	stop := w.Expect(regexp.MustCompile("Kernel panic"))
	_, _ = w.Write([]byte("Kernel panic - not syncing\nCall Trace:\n"))
	_, _ = w.Write([]byte("lab: 6.34 modules loaded\nkernel BUG at fs/dlm/lock.c:1!\n"))
	require.Equal(t, 1, stop())
	require.Len(t, w.Findings(), 1)
}

// An expected complaint without a trace must not excuse the next one.
func TestAfterAComplaintOfOneLine(t *testing.T) {
	w := &Watcher{}
	stop := w.Expect(regexp.MustCompile("wait error"))
	_, _ = w.Write([]byte("dlm: bugs: remwait error 2 reply 8 wait_type 2 overlap\nkernel BUG at lib/list_debug.c:56!\n"))
	require.Equal(t, 1, stop())
	require.Len(t, w.Findings(), 1)
}
