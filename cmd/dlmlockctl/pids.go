package main

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"time"

	"github.com/dlmlock/dlmlockd/client"
)

// forgetPIDs removes the pids that say nothing: of processes that have ended since
// they asked for the lock, whose numbers may belong to others now, and all of them
// if the service counts processes in another pid namespace. A lock with the lifetime
// of a process keeps its pid: the service watches that process.
func forgetPIDs(ctx context.Context, c *client.Client, locks []client.Lock) {
	comparable, asked := false, false
	boot, known := bootTime()
	started := map[uint32]time.Time{}
	for i := range locks {
		l := &locks[i]
		if l.PID == 0 || l.Lifetime == client.Process {
			continue
		}
		if !asked {
			comparable, asked = c.SeesPIDs(ctx) && known, true
		}
		start, seen := started[l.PID]
		if comparable && !seen {
			if p, err := readProcess(int(l.PID)); err == nil && !p.over() {
				start = boot.Add(time.Duration(p.start) * (time.Second / clockTicks))
			}
			started[l.PID] = start
		}
		// The clock may have been adjusted a little since the boot.
		if start.IsZero() || !l.Since.IsZero() && start.After(l.Since.Add(time.Second)) {
			l.PID = 0
		}
	}
}

// clockTicks is the unit of the start times in /proc: sysconf(_SC_CLK_TCK), which
// is 100 on every architecture that Go supports.
const clockTicks = 100

// bootTime reads when the host was booted (proc_stat(5), btime).
func bootTime() (time.Time, bool) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, false
	}
	for line := range bytes.Lines(text) {
		if value, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			return time.Unix(n, 0), err == nil
		}
	}
	return time.Time{}, false
}
