package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/config"
)

func env(pairs map[string]string) func(string) string {
	return func(k string) string { return pairs[k] }
}

func TestFlagsWinOverTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	require.NoError(t, os.WriteFile(file, []byte("engine = \"dlm\"\nlog-level = \"warn\"\ngroup = \"g\"\n"), 0o600))
	o, err := readOptions([]string{"--config", file, "--engine=local", "--log-level=debug", "--state-dir=/s",
		"--bus=unix:path=/x"}, env(nil))
	require.NoError(t, err)
	require.Equal(t, "local", o.Engine)
	require.Equal(t, slog.LevelDebug, o.LogLevel)
	require.Equal(t, "g", o.Group)
	require.Equal(t, "/s", o.StateDir)
	require.Equal(t, "unix:path=/x", o.Bus)

	o, err = readOptions([]string{"--config", file}, env(nil))
	require.NoError(t, err)
	require.Equal(t, "dlm", o.Engine)
	require.Equal(t, slog.LevelWarn, o.LogLevel)
}

func TestStateDir(t *testing.T) {
	require.Equal(t, "/a", stateDir("/a", env(map[string]string{"RUNTIME_DIRECTORY": "/run/b"})))
	require.Equal(t, "/run/b", stateDir("", env(map[string]string{"RUNTIME_DIRECTORY": "/run/b"})))
	require.Equal(t, "/run/b", stateDir("", env(map[string]string{"RUNTIME_DIRECTORY": "/run/b:/run/c"})))
	require.Equal(t, "/run/dlmlockd", stateDir("", env(nil)))
}

func TestBadCommandLines(t *testing.T) {
	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"unknown flag", "flag provided but not defined: -frob", []string{"--frob"}},
		{"argument", `unexpected argument "start"`, []string{"start"}},
		{"argument after flags", `unexpected argument "x"`, []string{"--engine=local", "x"}},
		{"engine", "--engine=dml: use dlm or local", []string{"--engine=dml"}},
		{"empty engine", "--engine=: use dlm or local", []string{"--engine="}},
		{"level", "--log-level=loud: use debug, info, warn or error", []string{"--log-level", "loud"}},
		{"state dir", "--state-dir: the directory is missing", []string{"--state-dir="}},
		{"empty file name", "--config: the file is missing", []string{"--config=", "--check"}},
		{"bus", "--bus=system: not a D-Bus address such as unix:path=/run/dbus/system_bus_socket",
			[]string{"--bus=system"}},
		{"check and relay", "only one of --check, --leave and --relay-cpg can be given",
			[]string{"--check", "--relay-cpg"}},
		{"leave and check", "only one of --check, --leave and --relay-cpg can be given",
			[]string{"--leave", "--check"}},
		{"flag without value", "flag needs an argument: -engine", []string{"--engine"}},
		{"bad version flag", `invalid boolean value "x" for -version: parse error`, []string{"--version=x"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := readOptions(tc.args, env(nil))
			var u *usageError
			require.ErrorAs(t, err, &u)
			require.EqualError(t, err, tc.want)

			var out, errs bytes.Buffer
			require.Equal(t, exitUsage, run(t.Context(), tc.args, env(nil), &out, &errs))
			require.Empty(t, out.String())
			require.Contains(t, errs.String(), tc.want)
			require.Contains(t, errs.String(), "--help")
		})
	}
}

func TestBadFileIsExitCodeSix(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	require.NoError(t, os.WriteFile(file, []byte("engin = \"dlm\"\n"), 0o600))
	var out, errs bytes.Buffer
	require.Equal(t, exitConfig, run(t.Context(), []string{"--config", file}, env(nil), &out, &errs))
	require.Equal(t, "dlmlockd: "+file+":1:1: engin: unknown key\n", errs.String())

	errs.Reset()
	require.Equal(t, exitConfig, run(t.Context(), []string{"--config", file + ".absent"}, env(nil), &out, &errs))
	require.Contains(t, errs.String(), "no such file")
	var ce *config.Error
	_, err := readOptions([]string{"--config", file}, env(nil))
	require.ErrorAs(t, err, &ce)
}

func TestVersionAndHelp(t *testing.T) {
	var out, errs bytes.Buffer
	require.Equal(t, exitOK, run(t.Context(), []string{"--version"}, env(nil), &out, &errs))
	require.Equal(t, "dlmlockd "+thisBuild().String()+"\n", out.String())
	for _, h := range []string{"--help", "-h", "-help"} {
		out.Reset()
		require.Equal(t, exitOK, run(t.Context(), []string{h}, env(nil), &out, &errs))
		require.Equal(t, usage, out.String())
	}
	require.Empty(t, errs.String())
}

// full is a device without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, unix.ENOSPC }

func TestOutputThatCannotBeWritten(t *testing.T) {
	for _, flag := range []string{"--version", "--help", "--check"} {
		var errs bytes.Buffer
		require.Equal(t, exitFailed, run(t.Context(), []string{flag, "--config=/dev/null"}, env(nil), full{}, &errs))
		require.Equal(t, "dlmlockd: the output could not be written: no space left on device\n", errs.String())
	}
}

// Each mistake has its place, and none hides another one: groups that do not exist, a program that others
// could change, one that is missing, unknown keys, values that can't be.
func TestCheckNamesEveryMistake(t *testing.T) {
	dir := t.TempDir()
	file, loose := filepath.Join(dir, "c.toml"), filepath.Join(dir, "loose")
	require.NoError(t, os.WriteFile(loose, nil, 0o700))
	require.NoError(t, os.Chmod(loose, 0o777))
	text := "[on-lost.a]\ncommand = [\"/nowhere/a\"]\n\n[on-lost.b]\ncommand = [\"" + loose +
		"\"]\ngroup = \"dlmlockd-b\"\n"
	require.NoError(t, os.WriteFile(file, []byte("group = \"dlmlockd-absent\"\n"+text+
		"[on-lost.c]\ncommand = [\"c\"]\ngroup = \"a b\"\nshell = true\n[limits]\npage-size = 0\n"), 0o600))
	var out, errs bytes.Buffer
	require.Equal(t, exitConfig, run(t.Context(), []string{"--config", file, "--check"}, env(nil), &out, &errs))
	lines := strings.Split(strings.TrimSuffix(errs.String(), "\n"), "\n")
	require.Len(t, lines, 8, "%s", lines)
	for i, want := range []string{":1:9: group: ", ":3:1: on-lost.a.command: ",
		":6:1: on-lost.b.command: " + loose + ": users other than",
		":7:9: on-lost.b.group: ", ":9:1: on-lost.c.command: \"c\" must be", ":10:9: on-lost.c.group: \"a b\" is not",
		":11:1: on-lost.c.shell: unknown key", ":13:13: limits.page-size: 0 is out"} {
		require.Contains(t, lines[i], "dlmlockd: "+file+want)
	}
}

// What a reload of the unit runs first.
func TestCheck(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	check := func(text string) (code int, out, errs string) {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		var o, e bytes.Buffer
		code = run(t.Context(), []string{"--config", file, "--check"}, env(nil), &o, &e)
		return code, o.String(), e.String()
	}
	code, out, errs := check("group = \"nogroup\"\n")
	require.Equal(t, exitOK, code)
	require.Equal(t, "dlmlockd: the configuration is good\n", out)
	require.Empty(t, errs)
	for text, want := range map[string]string{
		"op-timeout = 3\n":              "c.toml:1:14: op-timeout: must be a string in quotes",
		"group = \"dlmlockd-absent\"\n": "c.toml:1:9: group: there is no group dlmlockd-absent; make it with groupadd",
	} {
		code, out, errs = check(text)
		require.Equal(t, exitConfig, code)
		require.Empty(t, out)
		require.Contains(t, errs, want)
	}
}
