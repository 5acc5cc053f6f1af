// Package benchreport writes what benchmarks have measured into a document.
//
// It owns the marks between which a benchmark's table stands, and the line that
// describes the machine. It refuses to know what was measured.
//
// Concurrency: its functions may be called from any goroutine; two that write
// the same file at once lose one of the tables.
package benchreport

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Write replaces what stands in the file between the marks of the make target;
// the rest of it is written by people. The marks are HTML comments on lines of
// their own: "make TARGET writes from here ..." and "... to here, make TARGET".
func Write(path, target, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin := "<!-- make " + target + " writes from here ... -->\n"
	end := "<!-- ... to here, make " + target + " -->\n"
	head, rest, ok := bytes.Cut(old, []byte(begin))
	_, tail, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return fmt.Errorf("%s lacks the marks %q and %q", path, begin, end)
	}
	return os.WriteFile(path, slices.Concat(head, []byte(begin+"\n"+text+"\n"+end), tail), 0o644)
}

// Machine describes where the benchmark runs, and when: processor, kernel, the
// programs named in also, Go, date, and the load of the last minute.
func Machine(also ...string) string {
	parts := []string{processor(), fmt.Sprintf("%d cores", runtime.NumCPU()), output("uname", "-sr")}
	parts = append(parts, also...)
	load, _ := os.ReadFile("/proc/loadavg")
	one, _, _ := strings.Cut(string(load), " ")
	parts = append(parts, runtime.Version(), time.Now().UTC().Format(time.DateOnly), "load "+one)
	return strings.Join(parts, ", ") + ".\n"
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for l := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(l, "model name"); ok {
			return strings.Trim(name, "\t :\n")
		}
	}
	return "unknown processor"
}

func output(name string, args ...string) string {
	out, _ := exec.Command(name, args...).Output()
	return strings.TrimSpace(string(out))
}
