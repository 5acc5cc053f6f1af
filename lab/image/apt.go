package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// apt is a configuration of apt: the machine's, or one with another suite of
// the same mirror.
type apt struct {
	config string // path for APT_CONFIG; "" is the machine's own
}

// installed is the Debian of this machine.
var installed apt

// suite prepares a configuration of apt, in the cache, that sees one other
// suite of Debian. The machine's own lists and sources stay as they are.
func suite(ctx context.Context, cache, name string) (apt, error) {
	out, err := run(ctx, "", "apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Component: main")
	if err != nil {
		return apt{}, err
	}
	mirror := mainMirror(string(out))
	if mirror == "" {
		return apt{}, errors.New("apt knows no mirror of Debian")
	}
	dir := filepath.Join(cache, "apt-"+name)
	for _, d := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return apt{}, err
		}
	}
	sources := filepath.Join(dir, "sources.list")
	source := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror, name)
	if err := os.WriteFile(sources, []byte(source), 0o644); err != nil {
		return apt{}, err
	}
	a := apt{config: filepath.Join(dir, "apt.conf")}
	config := fmt.Sprintf("Dir::Etc::sourcelist %q;\nDir::Etc::sourceparts \"/dev/null\";\nDir::State::lists %q;\n"+
		"Dir::Cache::archives %q;\nAPT::Sandbox::User \"root\";\n"+
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\nAcquire::Languages \"none\";\n",
		sources, filepath.Join(dir, "lists"), filepath.Join(dir, "archives"))
	return a, os.WriteFile(a.config, []byte(config), 0o644)
}

// mainMirror picks the archive out of apt's list of repositories, which has
// that of security updates as well.
func mainMirror(uris string) string {
	for line := range strings.Lines(uris) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "security") {
			return line
		}
	}
	return ""
}

// update has apt fetch its package lists anew. The machine's own lists are
// root's.
func (a apt) update(ctx context.Context) error {
	argv := []string{"apt-get", "update", "-q"}
	if a == installed && os.Geteuid() != 0 {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	if _, err := a.run(ctx, "", argv[0], argv[1:]...); err != nil {
		return fmt.Errorf("the package lists are outdated: %w", err)
	}
	return nil
}

// resolveKernel asks apt for the kernel package behind the series' meta package.
func (a apt) resolveKernel(ctx context.Context, series string) (string, error) {
	for _, meta := range metaPackages[series] {
		// apt-cache fails for a package that this Debian doesn't have.
		out, err := a.run(ctx, "", "apt-cache", "depends", meta)
		if err != nil {
			continue
		}
		if name := dependency(string(out), series); name != "" {
			return name, nil
		}
	}
	return "", fmt.Errorf("apt knows no kernel %s behind %v; do: apt-get update (Debian 12 with its security archive "+
		"has both kernels)", series, metaPackages[series])
}

// dependency finds the kernel package of a series in apt-cache's output.
func dependency(depends, series string) string {
	version := regexp.QuoteMeta(series) + `\.`
	if series == Testing {
		version = ""
	}
	re := regexp.MustCompile(`(?m)^\s*Depends: (linux-image-` + version + `[0-9][^ ]*-amd64)$`)
	if m := re.FindStringSubmatch(depends); m != nil && !strings.Contains(m[1], "cloud") {
		return m[1]
	}
	return ""
}
