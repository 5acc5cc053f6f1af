package lab_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/service"
)

const (
	walkFile = "testdata/walk.txt"
	// The two versions of the package that the administrator has.
	walkFirst, walkSecond = "0.9.0", "0.9.1"
)

// TestWalk does what an administrator does with the packages on two nodes whose
// process 1 is systemd, and keeps what was typed and answered as an artefact,
// transcript.txt. Each section of testdata/walk.txt is a subtest.
func TestWalk(t *testing.T) {
	lab.Require(t)
	t.Parallel()
	packages := t.TempDir()
	buildPackages(t, cmp.Or(os.Getenv("LAB_OLDER_TREE"), ".."), packages, walkFirst)
	buildPackages(t, "..", packages, walkSecond)
	hooked, err := service.Build(t.Context(), t.TempDir(), "crashtest")
	require.NoError(t, err)
	script, err := os.ReadFile(walkFile)
	require.NoError(t, err)
	sections, err := parseWalk(string(script))
	require.NoError(t, err)

	c := lab.Start(t, lab.Config{Nodes: 2, Systemd: true, Fencing: true, KernelArgs: withAppArmor})
	require.NoError(t, c.JoinDLM(lab.Context(t, "joining", joinTime)))
	debs, err := filepath.Glob(filepath.Join(packages, "dlmlockd_*.deb"))
	require.NoError(t, err)
	require.Len(t, debs, 2)
	rpms, err := filepath.Glob(filepath.Join(packages, "dlmlockd-[0-9]*.rpm"))
	require.NoError(t, err)
	require.Len(t, rpms, 2)
	status := fewPackages(t, debs[0])
	for _, n := range c.Nodes() {
		furnishWalk(t, n, append(debs, rpms...), status, hooked)
	}
	w := &walk{cluster: c, vars: map[string]string{}}
	defer w.keep(t, filepath.Join(c.Artefacts(), "transcript.txt"))
	fmt.Fprintf(&w.out, "Two nodes, kernel %s; process 1 is systemd.\n", c.Release())
	for _, s := range sections {
		fmt.Fprintf(&w.out, "\n%s\n%s\n", s.title, strings.Repeat("=", len(s.title)))
		t.Run(s.title, func(t *testing.T) {
			w.section(t, s)
			w.nothingDenied(t)
		})
	}
	require.Empty(t, c.Fenced(), "the node left in order")
}

// buildPackages builds the packages of a version, as "make packages" does. With
// LAB_OLDER_TREE the first version is built from another tree, that of an older
// release, so that the upgrade from it is what the walk does.
func buildPackages(t *testing.T, tree, dir, version string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "make", "-C", tree, "--no-print-directory", "build-deb", "build-rpm",
		"VERSION=v"+version, "PACKAGES="+dir, "PACKAGE_ROOT="+filepath.Join(dir, "root")).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// furnishWalk makes the node what the host of an administrator is: its root is
// that of the machine that builds, where services must not be started.
func furnishWalk(t *testing.T, n *lab.Node, packages []string, status []byte, hooked string) {
	ctx := lab.Context(t, "furnishing", joinTime)
	for _, name := range packages {
		require.NoError(t, n.Push(ctx, name, "/root/"+filepath.Base(name)))
	}
	require.NoError(t, n.Push(ctx, "../debian/tests/locks", "/root/locks"))
	require.NoError(t, n.Put(ctx, "/var/lib/dpkg/status", 0o644, status))
	require.NoError(t, n.Push(ctx, hooked, "/root/dlmlockd-stall"))
	// Nor is an index of all manual pages made at each installation.
	_, err := n.Shell(ctx,
		"rm -f /usr/sbin/policy-rc.d /var/lib/man-db/auto-update && useradd --groups operator alice && useradd bob")
	require.NoError(t, err)
}

// fewPackages is what dpkg knows on a host that has only the packages which the
// given one depends on, and those the walk uses. That of the root of the nodes is
// many times as long, and dpkg reads it anew each time.
func fewPackages(t *testing.T, deb string) []byte {
	t.Helper()
	file := filepath.Join("/", os.Getenv("LAB_ROOT"), "var/lib/dpkg/status")
	depends, err := exec.CommandContext(t.Context(), "dpkg-deb", "--field", deb, "Depends").Output()
	require.NoError(t, err)
	// apt looks only at what is installed there.
	args := []string{"--option=Dir::State::status=" + file, "--option=Dir::State::lists=/nonexistent",
		"--option=Dir::Cache=" + t.TempDir(), "depends", "--recurse", "--installed", "--no-recommends",
		"--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", "--no-enhances",
		"systemd", "dbus", "polkitd", "corosync", "dlm-controld", "dpkg", "man-db", "bash-completion"}
	for _, m := range regexp.MustCompile(`(?:^|, )([a-z0-9.+-]+)`).FindAllSubmatch(depends, -1) {
		args = append(args, string(m[1]))
	}
	out, err := exec.CommandContext(t.Context(), "apt-cache", args...).Output()
	require.NoError(t, err)
	keep := map[string]bool{}
	for _, line := range strings.Split(string(out), "\n") {
		name, _, _ := strings.Cut(line, ":")
		keep[name] = true
	}
	status, err := os.ReadFile(file)
	require.NoError(t, err)
	var few bytes.Buffer
	for entry := range strings.SplitSeq(string(status), "\n\n") {
		first, _, _ := strings.Cut(entry, "\n")
		if keep[strings.TrimPrefix(first, "Package: ")] {
			few.WriteString(entry + "\n\n")
		}
	}
	return few.Bytes()
}

// step is one command of the walk and what is expected of it.
type walkStep struct {
	line   int
	node   int // 0: prose
	text   string
	want   []string // regular expressions; named groups are remembered
	refuse []string // regular expressions that must not match
	status int
	until  bool // repeated until it is as expected
	off    bool // waits for the end of the node
}

type walkSection struct {
	title string
	steps []walkStep
}

// parseWalk reads the walk:
//
//	= Title              a section
//	Text                 told in the transcript
//	1# command           typed by root on node 1
//	| more               the next line of the command
//	> regexp             something in the output matches; (?P<x>...) sets %x%
//	! regexp             nothing in the output matches
//	exit 75              the expected exit status
//	until                the command is repeated until all of that is so
//	off 2                waits until node 2 is off
//	// text              a comment
func parseWalk(script string) ([]walkSection, error) {
	var all []walkSection
	var s *walkSection
	command := regexp.MustCompile(`^([12])# (.*)$`)
	for i, line := range strings.Split(script, "\n") {
		if title, ok := strings.CutPrefix(line, "= "); ok {
			all = append(all, walkSection{title: title})
			s = &all[len(all)-1]
			continue
		}
		if strings.HasPrefix(line, "//") || s == nil {
			continue
		}
		if m := command.FindStringSubmatch(line); m != nil {
			s.steps = append(s.steps, walkStep{line: i + 1, node: int(m[1][0] - '0'), text: m[2]})
			continue
		}
		if line == "off 1" || line == "off 2" {
			s.steps = append(s.steps, walkStep{line: i + 1, node: int(line[4] - '0'), off: true})
			continue
		}
		if len(s.steps) > 0 && s.steps[len(s.steps)-1].expect(line) {
			continue
		}
		if strings.HasPrefix(line, "> ") || strings.HasPrefix(line, "! ") {
			return nil, fmt.Errorf("%s:%d: an expectation without a command", walkFile, i+1)
		}
		s.steps = append(s.steps, walkStep{line: i + 1, text: line})
	}
	return all, nil
}

// expect takes a line that belongs to the command above it.
func (s *walkStep) expect(line string) bool {
	if s.node == 0 {
		return false
	}
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "|":
		s.text += "\n" + rest
	case ">":
		s.want = append(s.want, rest)
	case "!":
		s.refuse = append(s.refuse, rest)
	case "exit":
		status, err := strconv.Atoi(rest)
		s.status = status
		return err == nil
	case "until":
		s.until = true
		return rest == ""
	default:
		return false
	}
	return true
}

// walk is the state of one run.
type walk struct {
	cluster *lab.Cluster
	vars    map[string]string // %name% to value
	out     bytes.Buffer      // the transcript
}

func (w *walk) keep(t *testing.T, path string) {
	if err := os.WriteFile(path, w.out.Bytes(), 0o644); err != nil {
		t.Error(err)
	}
	t.Logf("the transcript is %s", path)
}

func (w *walk) section(t *testing.T, s walkSection) {
	for _, step := range s.steps {
		switch {
		case step.off:
			w.awaitOff(t, step.node)
		case step.node == 0:
			w.out.WriteString(step.text + "\n")
		default:
			w.step(t, step)
		}
	}
}

// nothingDenied fails if AppArmor has denied anything on a node that is up.
func (w *walk) nothingDenied(t *testing.T) {
	for _, n := range w.cluster.Nodes() {
		if n.Up() {
			out, err := n.Shell(lab.Context(t, "kernel log", commandTime), denials)
			require.NoError(t, err)
			assert.Empty(t, out, "%s", n.Name)
		}
	}
}

func (w *walk) awaitOff(t *testing.T, id int) {
	n := w.cluster.Node(id)
	select {
	case <-n.Gone():
		fmt.Fprintf(&w.out, "[%s is off]\n", n.Name)
	case <-lab.Context(t, "power off", joinTime).Done():
		t.Fatalf("%s does not go down", n.Name)
	}
}

// step has a node run the command, and checks what came of it.
func (w *walk) step(t *testing.T, s walkStep) {
	t.Helper()
	n := w.cluster.Node(s.node)
	ctx := lab.Context(t, s.text, commandTime)
	text := w.expand(s.text)
	if strings.HasPrefix(text, "journalctl ") {
		// journald may not have read yet what a unit has written that has ended.
		_, err := n.Run(ctx, "journalctl", "--sync")
		require.NoError(t, err)
	}
	began := time.Now()
	defer func() { t.Logf("%4.1f s %s# %s", time.Since(began).Seconds(), n.Name, text) }()
	fmt.Fprintf(&w.out, "root@%s:~# %s\n", n.Name, strings.ReplaceAll(text, "\n", "\n> "))
	for {
		out, wrong := w.try(ctx, n, s, text)
		if wrong == nil {
			w.out.WriteString(out)
			return
		}
		if !s.until || ctx.Err() != nil {
			w.out.WriteString(out)
			t.Errorf("%s:%d: %s\n%v\n%s", walkFile, s.line, text, wrong, out)
			return // what comes next shows what else is wrong
		}
		select {
		case <-time.After(600 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// try runs the command once.
func (w *walk) try(ctx context.Context, n *lab.Node, s walkStep, text string) (string, error) {
	raw, _, err := n.RunCommand(ctx, agent.Command{
		Argv: []string{"bash", "-c", "exec 2>&1 </dev/null; cd; " + text},
		Env: []string{"TERM=dumb", "SYSTEMD_PAGER=", "MANWIDTH=100", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
			"LANG=C.UTF-8", "SYSTEMD_COLORS=0"},
	}, nil)
	out := string(raw)
	if out != "" && !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	status := 0
	if exited, ok := errors.AsType[*agent.ExitError](err); ok {
		status = exited.Code
	} else if err != nil {
		return out, err
	}
	if status != s.status {
		return out, fmt.Errorf("exit status %d instead of %d", status, s.status)
	}
	for _, expr := range s.refuse {
		if regexp.MustCompile("(?m)" + w.expand(expr)).MatchString(out) {
			return out, fmt.Errorf("the output has %q", expr)
		}
	}
	for _, expr := range s.want {
		re, err := regexp.Compile("(?m)" + w.expand(expr))
		if err != nil {
			return out, err
		}
		m := re.FindStringSubmatch(out)
		if m == nil {
			return out, fmt.Errorf("nothing in the output matches %q", re)
		}
		for i, name := range re.SubexpNames() {
			if name != "" {
				w.vars[name] = m[i]
			}
		}
	}
	return out, nil
}

// expand puts the remembered values in.
func (w *walk) expand(text string) string {
	for name, value := range w.vars {
		text = strings.ReplaceAll(text, "%"+name+"%", value)
	}
	return text
}
