//go:build crashtest

package main

import (
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// With this build tag DLMLOCKD_CRASH_STEP=N ends the process, as kill -9 does, before the N-th step
// of the order of events. DLMLOCKD_STALL_STEP=FILE makes the owner hang for ever before
// the next step once that file exists. The file is removed, so the next process does not hang.
func init() {
	if file := os.Getenv("DLMLOCKD_STALL_STEP"); file != "" {
		onStep = func(string) {
			if os.Remove(file) == nil {
				select {}
			}
		}
		return
	}
	n, err := strconv.Atoi(os.Getenv("DLMLOCKD_CRASH_STEP"))
	if err != nil {
		return
	}
	var steps atomic.Int64 // of the owner, and of connections
	onStep = func(string) {
		if steps.Add(1) == int64(n) {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {} // the signal is on its way
		}
	}
}
