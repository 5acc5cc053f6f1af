// Package benchreport writes the results of benchmarks into a document.
//
// It owns the marks that enclose a benchmark's table, and the line that describes the machine. It
// does not know what was measured.
//
// Concurrency: its functions may be called from any goroutine; if two write to the same file at
// once, one of the tables is lost.
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

// Write replaces the text between the marks of the make target in the file; people write the rest
// of it. The marks are HTML comments on lines of their own: "make TARGET writes from here ..." and
// "... to here, make TARGET".
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

// Machine describes where and when the benchmark runs: processor, kernel, the programs named in
// also, Go, date, and the load of the last minute.
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
