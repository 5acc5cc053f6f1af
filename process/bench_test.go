package process

import (
	"os"
	"os/exec"
	"testing"
)

// BenchmarkHold is the least that a lock of the lifetime process costs: the caller is examined, and
// the process that it names is watched and released.
func BenchmarkHold(b *testing.B) {
	w, err := NewWatcher()
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for b.Loop() {
		pid, err := w.Translate(uint32(os.Getpid()), uint32(cmd.Process.Pid), 0)
		if err != nil {
			b.Fatal(err)
		}
		i, err := w.Hold(pid, 0)
		if err != nil {
			b.Fatal(err)
		}
		w.Drop(i.ID)
	}
}
