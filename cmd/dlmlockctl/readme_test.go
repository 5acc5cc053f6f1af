package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// busWithService is a bus on which the service runs until the end of the test.
func busWithService(t *testing.T) *testbus.Bus {
	bus := testbus.Start(t, testbus.Daemon)
	watch := bus.Dial(t)
	service := exec.CommandContext(t.Context(), filepath.Join(programs, "dlmlockd"), "--engine=local",
		"--state-dir="+t.TempDir())
	service.Env = append(os.Environ(), "DBUS_SYSTEM_BUS_ADDRESS="+bus.Address)
	require.NoError(t, service.Start())
	t.Cleanup(func() {
		_ = service.Process.Kill()
		_ = service.Wait()
	})
	require.Eventually(t, func() bool {
		var has bool
		return watch.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, client.Name).Store(&has) == nil && has
	}, time.Minute, 5*time.Millisecond)
	return bus
}

// The commands of README.md that begin with "$ " print what it shows, where "..." stands
// for anything.
func TestReadmeCommands(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	bus := busWithService(t)
	commands := 0
	for _, block := range strings.Split(string(text), "```console\n")[1:] {
		block, _, _ = strings.Cut(block, "```")
		if strings.Contains(block, withoutBus) {
			continue
		}
		for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
			line, shown, _ := strings.Cut(step, "\n")
			out, err := bus.Typed(t, line, programs).CombinedOutput()
			require.NoError(t, err, "%s\n%s", line, out)
			want := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(shown, "\n")), `\.\.\.`, `.*`)
			require.Regexp(t, `(?s)\A`+want+`\n*\z`, string(out), line)
			commands++
		}
	}
	require.GreaterOrEqual(t, commands, 6)
}

const withoutBus = "--bus=none"

// The commands in README.md that try the service without a bus work, unchanged, in one shell. A
// person types slowly enough for the service to be ready.
func TestReadmeWithoutABus(t *testing.T) {
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(text), withoutBus)
	require.True(t, ok)
	before = before[strings.LastIndex(before, "```console\n")+len("```console\n"):]
	block, _, _ := strings.Cut(before+withoutBus+rest, "```")
	var first, then, shown []string
	lines := &first
	for line := range strings.Lines(block) {
		line = strings.TrimSuffix(line, "\n")
		typed, ok := strings.CutPrefix(line, "$ ")
		if !ok {
			shown = append(shown, strings.ReplaceAll(regexp.QuoteMeta(line), `\.\.\.`, ".*"))
			continue
		}
		*lines = append(*lines, strings.ReplaceAll(typed, "$PWD/bin", programs))
		if strings.HasSuffix(typed, "&") {
			lines = &then
		}
	}
	require.NotEmpty(t, then)
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "-e")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	write := func(lines []string) {
		_, err := io.WriteString(in, strings.Join(lines, "\n")+"\n")
		require.NoError(t, err)
	}
	write(first)
	require.Eventually(t, func() bool {
		sockets, _ := filepath.Glob(dir + "/*/socket")
		if len(sockets) == 0 {
			return false
		}
		conn, err := net.Dial("unix", sockets[0])
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, time.Minute, 5*time.Millisecond)
	write(then)
	require.NoError(t, in.Close())
	require.NoError(t, cmd.Wait(), "%s", &out) // which also waits for the end of the service, because it writes to out
	var said []string
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "time=") { // a warning of the service
			said = append(said, line)
		}
	}
	require.Regexp(t, `(?s)\A`+strings.Join(shown, "\n")+`\n\z`, strings.Join(said, ""))
}

// samples are the displays in the section EXAMPLES of dlmlockctl(1), and the commands of
// docs/programs.md, a line each.
func samples(t *testing.T) (lines []string) {
	_, section, ok := strings.Cut(manPage(t), "\n.Sh EXAMPLES\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n.Sh ")
	for _, m := range regexp.MustCompile(`(?s)\.Bd [^\n]*\n(.*?)\.Ed`).FindAllStringSubmatch(section, -1) {
		lines = append(lines, strings.Split(strings.TrimSpace(strings.ReplaceAll(m[1], `\-`, "-")), "\n")...)
	}
	text, err := os.ReadFile("../../docs/programs.md")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile("(?m)^```\n(dlmlockctl [^\n]*)\n```$").FindAllStringSubmatch(string(text), -1) {
		lines = append(lines, m[1])
	}
	return lines
}

// What the manual page and docs/programs.md tell to type works. The jobs in them are
// programs here that note their arguments.
func TestSamplesOfTheManual(t *testing.T) {
	dir, bus := t.TempDir(), busWithService(t)
	for _, name := range []string{"rsync", "cleanup", "report"} {
		job := "#!/bin/sh\necho ${0##*/} $* >>" + dir + "/jobs\n"
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(job), 0o755))
	}
	run := func(line string) string {
		cmd := bus.Typed(t, line, programs, dir)
		cmd.Env = append(cmd.Env, "uuid=5f3c")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", line, out)
		return string(out)
	}
	run("dlmlockctl join vms && dlmlockctl join cron && dlmlockctl acquire vms mine EX")
	lines := samples(t)
	require.Len(t, lines, 7)
	shown := map[string]string{}
	for _, line := range lines {
		shown[line] = run(strings.NewReplacer("/usr/local/bin/", "", "--uid=1000", "--uid="+strconv.Itoa(os.Getuid())).
			Replace(line))
	}
	require.Equal(t, "released 1 lock of 5f3c\n", shown["dlmlockctl release-owner $uuid"])
	require.Contains(t, shown["dlmlockctl list --uid=1000 --json | jq -r '.[].resource'"], "mine\n")
	jobs, err := os.ReadFile(filepath.Join(dir, "jobs"))
	require.NoError(t, err)
	require.Equal(t, "rsync -a /srv /mnt\ncleanup\nreport\nrsync -a /srv /mnt/backup\n", string(jobs))
}
