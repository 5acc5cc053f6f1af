// Package buildinfo tells which build of a program runs: version, commit and
// date.
//
// It owns the rule of what is shown where the linker was told nothing: what the
// Go toolchain wrote down of the repository, and "unknown" where that is
// nothing either. It refuses to know who shows it.
//
// Concurrency: functions without state; a Build is plain data.
package buildinfo

import (
	"fmt"
	"runtime/debug"
	"strings"
)

// unknown is what is shown of what nobody wrote down.
const unknown = "unknown"

// Build is one build of the programs.
type Build struct {
	Version string
	Commit  string // of the repository; "-dirty" at its end: with changes
	Date    string // RFC 3339: of the build, or of the commit where builds are reproducible
}

// Read completes what the linker was told (-X main.version=... and so on; ""
// where it was told nothing).
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

// complete fills in from what the toolchain wrote down.
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

// String is what --version shows after the name of the program.
func (b Build) String() string {
	return fmt.Sprintf("%s (commit %s, built %s)", b.Version, b.Commit, b.Date)
}
