package process

import (
	"os"
	"os/exec"
	"testing"
)

// BenchmarkHold is what a lock of the lifetime process costs at the least: the
// caller is looked at, and the process that it names is watched and let go of.
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
