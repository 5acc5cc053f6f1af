package image

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// MissingError names the Debian packages that have to be installed first.
type MissingError struct{ Packages []string }

// Error tells what to do.
func (e *MissingError) Error() string {
	return "missing Debian packages, do: apt-get install " + strings.Join(e.Packages, " ")
}

// PackageList reads a list of packages: one name a line, # begins a comment.
func PackageList(text string) []string {
	var names []string
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), "#")
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// CheckPackages returns a *MissingError that names those of the packages that
// are not installed, or nil.
func CheckPackages(names []string) error {
	args := append([]string{"-W", "-f", "${Package} ${db:Status-Status}\n"}, names...)
	// dpkg-query exits with 1 when it doesn't know a package, which is an answer.
	out, err := exec.Command("dpkg-query", args...).Output()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		return fmt.Errorf("the lab needs a Debian system: %w", err)
	}
	if missing := notInstalled(names, string(out)); len(missing) > 0 {
		return &MissingError{Packages: missing}
	}
	return nil
}

// notInstalled compares the names with dpkg-query's "name status" lines.
func notInstalled(names []string, status string) []string {
	installed := map[string]bool{}
	for line := range strings.Lines(status) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == "installed" {
			installed[f[0]] = true
		}
	}
	var missing []string
	for _, n := range names {
		if !installed[n] {
			missing = append(missing, n)
		}
	}
	return missing
}
