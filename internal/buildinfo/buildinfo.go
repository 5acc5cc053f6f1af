// Package buildinfo says which build of a program is running: version, commit and date.
//
// It owns the fallbacks for values that the linker did not set: what the Go toolchain recorded
// about the repository, and otherwise "unknown". It does not know who shows them.
//
// Concurrency: functions without state; a Build is plain data.
package buildinfo

import (
	"fmt"
	"runtime/debug"
	"strings"
)

// unknown stands for a value that nobody has recorded.
const unknown = "unknown"

// Build is one build of the programs.
type Build struct {
	Version string
	// Commit is that of the repository; "-dirty" at its end means that there were changes.
	Commit string
	// Date is that of the build, in RFC 3339, or that of the commit if builds are reproducible.
	Date string
}

// Read completes the values from the linker (-X main.version=... and so on; "" if it set none).
func Read(version, commit, date string) Build {
	b := Build{version, commit, date}
	if info, ok := debug.ReadBuildInfo(); ok {
		b.complete(info)
	}
	for _, s := range []*string{&b.Version, &b.Commit, &b.Date} {
		if *s == "" {
			*s = unknown
		}
	}
	return b
}

// complete adds what the toolchain has recorded.
func (b *Build) complete(info *debug.BuildInfo) {
	vcs := map[string]string{}
	for _, s := range info.Settings {
		if key, ok := strings.CutPrefix(s.Key, "vcs."); ok {
			vcs[key] = s.Value
		}
	}
	if b.Version == "" && info.Main.Version != "(devel)" {
		b.Version = info.Main.Version
	}
	// Commit and date belong together: half of each would be wrong.
	if b.Commit != "" || b.Date != "" {
		return
	}
	b.Commit, b.Date = vcs["revision"], vcs["time"]
	if b.Commit != "" && vcs["modified"] == "true" {
		b.Commit += "-dirty"
	}
}

// String returns what --version shows after the name of the program.
func (b Build) String() string {
	return fmt.Sprintf("%s (commit %s, built %s)", b.Version, b.Commit, b.Date)
}
