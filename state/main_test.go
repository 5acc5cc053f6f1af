package state

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files and the example in the documentation anew")

// TestMain fails the run if a test leaves a descriptor open, and is the child
// of TestKilledAtRandom.
func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		writeUntilKilled(dir)
		return
	}
	before := openFiles()
	code := m.Run()
	for fd, what := range openFiles() {
		if before[fd] != what && code == 0 {
			fmt.Fprintf(os.Stderr, "descriptor %s was left open: %s\n", fd, what)
			code = 1
		}
	}
	os.Exit(code)
}

// openFiles lists the open descriptors, without those of the runtime.
func openFiles() map[string]string {
	files := map[string]string{}
	names, _ := filepath.Glob("/proc/self/fd/*")
	for _, name := range names {
		what, err := os.Readlink(name)
		if err != nil || strings.HasPrefix(what, "anon_inode:") {
			continue
		}
		files[name] = what
	}
	return files
}
