// Package testprocess stops processes for tests.
//
// It refuses to know what the processes are.
//
// Concurrency: its functions may be called from any goroutine.
package testprocess

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// patience is how long a process may take to stop. The machine may be busy.
const patience = time.Minute

// Stop sends SIGSTOP to a process, and returns when each of its threads has stopped:
// kill(2) comes back before that, and a thread that still runs could read or answer
// something.
func Stop(p *os.Process) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		stopped, err := allStopped(p.Pid)
		if err != nil || stopped {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("process %d has not stopped within %v", p.Pid, patience)
		}
	}
}

func allStopped(pid int) (bool, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false, err
	}
	if len(threads) == 0 {
		return false, fmt.Errorf("process %d is gone", pid)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err == nil && !strings.Contains(string(text), ") T ") {
			return false, nil
		}
	}
	return true, nil
}
