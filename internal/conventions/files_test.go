package conventions

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScriptsAreClean(t *testing.T) {
	_, err := exec.LookPath("shellcheck")
	require.NoError(t, err, "apt-get install shellcheck")
	scripts := []string{filepath.Join(root, ".ci/run")}
	for _, pattern := range []string{"scripts/*.sh", "packaging/*.sh", "packaging/deb/*", "packaging/rpm/*",
		"packaging/before-removal", "debian/*.p*", "debian/tests/locks", "virtlockd/virtlockd-socket"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, found, pattern)
		scripts = append(scripts, found...)
	}
	out, err := exec.Command("shellcheck", scripts...).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// make install puts everything where the other parts look for it, and files that contain a path
// follow PREFIX.
func TestInstall(t *testing.T) {
	dest := t.TempDir()
	cmd := exec.Command("make", "--no-print-directory", "install-files", "DESTDIR="+dest, "PREFIX=/opt/x")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for path, want := range map[string]string{
		"opt/x/lib/systemd/system/dlmlockd.service":                      "ExecStart=/opt/x/sbin/dlmlockd\n",
		"opt/x/lib/systemd/system/dlmlockd-controld.socket":              "ListenStream=/run/dlmlockd-controld.sock\n",
		"opt/x/lib/systemd/system/dlmlockd-controld.service":             "@dlmc_query_sock\n",
		"opt/x/share/dbus-1/system-services/org.example.DlmLock.service": "Exec=/opt/x/sbin/dlmlockd\n",
		"opt/x/share/dbus-1/system.d/org.example.DlmLock.conf":           "<busconfig>",
		"opt/x/share/dbus-1/interfaces/org.example.DlmLock.xml":          "interface name=\"org.example.DlmLock\"",
		"opt/x/share/polkit-1/actions/org.example.DlmLock.policy":        "org.example.DlmLock.acquire",
		"opt/x/share/doc/dlmlockd/examples/50-dlmlock.rules":             "polkit.addRule",
		"opt/x/lib/systemd/system/dlmlock@.service":                      "ExecStart=/opt/x/bin/dlmlockctl --quiet hold",
		"opt/x/share/dlmlockd/monitoring/dlmlockd.rules.yml":             "alert: DlmlockdLocksLost",
		"opt/x/share/dlmlockd/monitoring/dlmlockd-dashboard.json":        "\"title\": \"dlmlockd\"",
		"opt/x/share/dlmlockd/dlmlockctl.schema.json":                    "\"What dlmlockctl --json writes\"",
		"opt/x/lib/systemd/system/dlmlockd-varlink.socket":               "FileDescriptorName=varlink\n",
		"opt/x/share/dlmlockd/org.example.DlmLock.varlink":               "interface org.example.DlmLock\n",
		"opt/x/lib/systemd/catalog/dlmlockd.catalog":                     "Subject: A cluster lock was lost\n",
		"opt/x/libexec/dlmlockd/virtlockd-socket":                        "Service=dlmlockd.service\n",
		"etc/dlmlockd.toml": "#engine = \"dlm\"\n",
	} {
		text, err := os.ReadFile(filepath.Join(dest, path))
		require.NoError(t, err)
		require.Contains(t, string(text), want, path)
	}

	// A configuration that exists belongs to the administrator.
	conf := filepath.Join(dest, "etc/dlmlockd.toml")
	require.NoError(t, os.WriteFile(conf, []byte("engine = \"local\"\n"), 0o644))
	out, err = exec.Command("make", "-C", root, "install-files", "DESTDIR="+dest, "PREFIX=/opt/x").CombinedOutput()
	require.NoError(t, err, "%s", out)
	text, err := os.ReadFile(conf)
	require.NoError(t, err)
	require.Equal(t, "engine = \"local\"\n", string(text))
}

// make uninstall removes what make install has installed, and neither a configuration
// that was changed nor what others have there.
func TestUninstall(t *testing.T) {
	dest := t.TempDir()
	run := func(target string) {
		out, err := exec.Command("make", "-C", root, "--no-print-directory", target, "DESTDIR="+dest).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	left := func() (files []string) {
		require.NoError(t, filepath.WalkDir(dest, func(path string, entry os.DirEntry, err error) error {
			if !entry.IsDir() || strings.Contains(entry.Name(), "dlmlock") {
				files = append(files, strings.TrimPrefix(path, dest))
			}
			return err
		}))
		return files
	}
	run("install-cockpit")
	require.NotEmpty(t, left())
	other := filepath.Join(dest, "usr/share/dbus-1/system.d/other.conf")
	require.NoError(t, os.MkdirAll(filepath.Dir(other), 0o755))
	require.NoError(t, os.WriteFile(other, nil, 0o644))
	run("install-python")
	run("uninstall-cockpit")
	run("uninstall-python")
	require.Equal(t, []string{"/usr/share/dbus-1/system.d/other.conf"}, left())

	run("install")
	run("uninstall")
	require.Equal(t, []string{"/usr/share/dbus-1/system.d/other.conf"}, left())

	run("install")
	conf := filepath.Join(dest, "etc/dlmlockd.toml")
	require.NoError(t, os.WriteFile(conf, []byte("engine = \"local\"\n"), 0o644))
	run("uninstall")
	require.Equal(t, []string{"/etc/dlmlockd.toml", "/usr/share/dbus-1/system.d/other.conf"}, left())
}

// The important documents exist, and their links lead to existing files.
func TestDocumentsLinkToWhatIsThere(t *testing.T) {
	docs, err := filepath.Glob(filepath.Join(root, "*.md"))
	require.NoError(t, err)
	more, err := filepath.Glob(filepath.Join(root, "docs/*.md"))
	require.NoError(t, err)
	names := map[string]bool{}
	for _, doc := range append(docs, more...) {
		names[filepath.Base(doc)] = true
		text, err := os.ReadFile(doc)
		require.NoError(t, err)
		for _, link := range links(string(text)) {
			_, err := os.Stat(filepath.Join(filepath.Dir(doc), link))
			require.NoErrorf(t, err, "a link in %s", doc)
		}
	}
	for _, want := range []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "BUGS.md",
		"design.md"} {
		require.Contains(t, names, want)
	}
}

// links returns the targets of [text](target) that are files of the repository.
func links(text string) []string {
	var out []string
	for _, part := range strings.Split(text, "](")[1:] {
		target, _, ok := strings.Cut(part, ")")
		target, _, _ = strings.Cut(target, "#")
		if ok && target != "" && !strings.Contains(target, ":") && !strings.ContainsAny(target, " \n") {
			out = append(out, target)
		}
	}
	return out
}

// The folders that the design and the architecture name exist.
func TestDocumentsNameFoldersThatAreThere(t *testing.T) {
	folder := regexp.MustCompile(`(?m)(?:^|\s)([a-z]+(?:/[a-zA-Z]+)*)/?(?:\s|$)`)
	design, err := os.ReadFile("../../docs/design.md")
	require.NoError(t, err)
	_, block, _ := strings.Cut(string(design), "## 3. Packages")
	_, block, _ = strings.Cut(block, "```\n")
	block, _, _ = strings.Cut(block, "```")
	for _, line := range strings.Split(strings.TrimSpace(block), "\n") {
		for _, word := range strings.Fields(line) {
			if name, ok := strings.CutSuffix(word, "/"); ok {
				require.DirExists(t, "../../"+name, "design.md, section 3: %s", line)
			}
		}
		if strings.HasPrefix(line, " ") {
			continue // the entry above goes on
		}
		first := folder.FindStringSubmatch(line)
		require.NotNil(t, first, line)
		require.DirExists(t, "../../"+first[1], "design.md, section 3: %s", line)
	}
	architecture, err := os.ReadFile("../../ARCHITECTURE.md")
	require.NoError(t, err)
	row := regexp.MustCompile(`(?m)^\| ([a-zA-Z/, ]+) \| [^|]+ \| ([^|]*) \|$`)
	rows := row.FindAllStringSubmatch(string(architecture), -1)
	tables := 0
	for _, row := range rows {
		names := strings.Split(row[1], ", ")
		if _, err := os.Stat("../../" + names[0]); err != nil {
			continue // a row of another table
		}
		tables++
		for _, name := range names {
			require.DirExists(t, "../../"+name, "ARCHITECTURE.md: %s", row[0])
		}
		for _, file := range regexp.MustCompile(`[a-zA-Z./-]+\.(?:go|md|xml)`).FindAllString(row[2], -1) {
			there := slices.ContainsFunc(append(names, "."), func(name string) bool {
				_, err := os.Stat("../../" + name + "/" + file)
				return err == nil
			})
			require.True(t, there, "ARCHITECTURE.md names %s for %s", file, row[1])
		}
	}
	require.Greater(t, tables, 12, "the table of packages was not found")
}

// The service reads CLOCK_BOOTTIME in one place, whose comment says what the clock is. The guests of
// the lab are separate programs.
func TestOnePlaceReadsTheBootClock(t *testing.T) {
	var places []string
	for name, text := range tracked(t, "*.go") {
		if !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "lab/") &&
			strings.Contains(string(text), "unix.CLOCK_BOOTTIME") {
			places = append(places, name)
		}
	}
	require.Equal(t, []string{"internal/boottime/boottime.go"}, places)
}
