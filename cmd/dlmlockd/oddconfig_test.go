package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// ends runs the program, which must end without help, and returns its exit code, its output, and
// the most memory that it had, in KiB.
func ends(t *testing.T, args ...string) (code int, said string, most int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(t), args...)
	out, _ := cmd.CombinedOutput()
	require.NoError(t, ctx.Err(), "it hangs: %s", out)
	return cmd.ProcessState.ExitCode(), string(out), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
}

// oddities puts one thing after the other in the place of the configuration, and
// says what is wrong with it.
func oddities(t *testing.T, file string, try func(want string)) {
	t.Helper()
	for _, odd := range []struct {
		want string
		make func() error
	}{
		{"it is a fifo, not a regular file", func() error { return unix.Mkfifo(file, 0o600) }},
		{"it is a device", func() error { return os.Symlink("/dev/zero", file) }},
		{"it is a device", func() error { return os.Symlink("/dev/full", file) }},
		{"it is a directory", func() error { return os.Mkdir(file, 0o700) }},
		{"its symbolic links form a loop", func() error { return os.Symlink(filepath.Base(file), file) }},
		{"does not exist", func() error { return os.Symlink("nothing", file) }},
		{"more than 65536 bytes", func() error {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(file, 1<<40)
		}},
		{"chmod go-w " + file, func() error {
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				return err
			}
			return os.Chmod(file, 0o666)
		}},
	} {
		require.NoError(t, os.RemoveAll(file))
		require.NoError(t, odd.make())
		try(odd.want)
	}
	require.NoError(t, os.RemoveAll(file))
}

// Whatever takes the place of the configuration: --check and a start end at once with the reason,
// without much memory.
func TestOddConfigurationFile(t *testing.T) {
	file, sound := configured(t, ""), configured(t, "")
	oddities(t, file, func(want string) {
		for _, args := range [][]string{{"--check"}, {"--engine=local", "--state-dir=" + t.TempDir()}} {
			code, said, most := ends(t, append(args, "--config="+file)...)
			require.Equal(t, exitConfig, code, said)
			require.Contains(t, said, "dlmlockd: "+file+": ")
			require.Contains(t, said, want)
			// The kernel counts the peak memory of this process for its children as well (exec_mmap in
			// Linux), so the usual peak is measured afterwards.
			code, _, usual := ends(t, "--check", "--config="+sound)
			require.Equal(t, exitOK, code)
			require.Less(t, most-usual, int64(8<<10), "KiB more than usual: %s", want)
		}
	})
}

// A failed reload keeps the old configuration, and logs the reason.
func TestOddConfigurationAtReload(t *testing.T) {
	bus, file := testbus.Start(t, testbus.Daemon), configured(t, "[limits]\nowner-bytes = 3\n")
	p := launch(t, program(t), bus.Address, t.TempDir(), nil, "--config="+file)
	p.awaitTold(t, "READY=1")
	c := newClient(bus.Dial(t))
	require.NoError(t, c.join("vms"))
	oddities(t, file, func(want string) {
		p.forget()
		require.NoError(t, p.cmd.Process.Signal(unix.SIGHUP))
		p.await(t, want, logs(want))
		p.awaitTold(t, "READY=1")
		p.await(t, "the refusal", logs("the configuration has mistakes; the one before stays in force"))
		_, err := c.acquire("vms", "a", "EX", "owner", "four")
		require.Equal(t, "org.example.DlmLock.Error.LimitExceeded", errorName(err))
	})
	require.Equal(t, exitOK, p.stop(t))
}

// A missing helper is reported by --check, at the start and at a reload; a helper that others could
// change is refused.
func TestHelpersAreLookedAt(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	helper := filepath.Join(dir, "helper")
	file := configured(t, "[on-lost.guard]\ncommand = [\""+helper+"\"]\n")
	check := func() (int, string) {
		code, said, _ := ends(t, "--config="+file, "--check")
		return code, strings.ReplaceAll(said, helper, "HELPER")
	}
	code, said := check()
	require.Equal(t, exitConfig, code)
	require.Equal(t, "dlmlockd: "+file+":2:1: on-lost.guard.command: HELPER: no such file or directory\n", said)

	const fault = "a helper for lost locks can't be run; nothing will be done for the locks that name it"
	p := launch(t, program(t), bus.Address, t.TempDir(), nil, "--config="+file)
	p.awaitTold(t, "READY=1")
	p.await(t, "the fault", logs(fault))
	reload := func(want string) {
		t.Helper()
		p.forget()
		require.NoError(t, p.cmd.Process.Signal(unix.SIGHUP))
		p.awaitTold(t, "READY=1")
		p.await(t, want, logs(want))
	}
	require.NoError(t, os.WriteFile(helper, []byte("#!/bin/sh\n"), 0o600))
	code, said = check()
	require.Equal(t, exitConfig, code)
	require.Contains(t, said, `it can't be executed (mode 0600): "chmod +x HELPER"`)
	reload("it can't be executed")

	require.NoError(t, os.Chmod(helper, 0o755))
	code, said = check()
	require.Equal(t, exitOK, code, said)
	reload("configuration read again")

	require.NoError(t, os.Chmod(helper, 0o777))
	code, said = check()
	require.Equal(t, exitConfig, code)
	require.Contains(t, said,
		`users other than its owner can write to HELPER (mode 0777): check that nobody has tampered with it, `+
			`then "chmod go-w HELPER"`)
	reload("the configuration has mistakes; the one before stays in force")
	require.Equal(t, exitOK, p.stop(t))
	code, said, _ = ends(t, "--config="+file, "--engine=local", "--state-dir="+t.TempDir(), "--bus="+bus.Address)
	require.Equal(t, exitConfig, code, said)
	require.Contains(t, said, "users other than its owner can write to")
}
