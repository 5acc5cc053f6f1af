package client

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// The Python package, against the real service. Its types are checked, too.
func TestPython(t *testing.T) {
	python := func(program string, args ...string) *exec.Cmd {
		path, err := exec.LookPath(program)
		require.NoError(t, err, "install %s (make deps)", program)
		cmd := exec.CommandContext(t.Context(), path, args...)
		cmd.Env = append(os.Environ(), "PYTHONPATH=../python", "PYTHONDONTWRITEBYTECODE=1")
		return cmd
	}
	types := python("mypy", "--strict", "--cache-dir=/dev/null", "../python/dlmlock", "../python/tests")
	out, err := types.CombinedOutput()
	require.NoError(t, err, "%s", out)

	r := startReal(t)
	read := append(samples(t, "../docs/programs.md", "import dlmlock"),
		samples(t, "../python/README.md", "import dlmlock")...)
	require.Len(t, read, 6)
	for _, sample := range read {
		cmd := python("/usr/bin/python3", "-W", "error", "-c", sample)
		cmd.Env = append(cmd.Env, AddressVariable+"="+r.socket)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s\n%s", sample, out)
		require.NotEmpty(t, out)
	}
	cmd := python("/usr/bin/python3", "../python/tests/test_lock.py", "-v")
	cmd.Env = append(cmd.Env, AddressVariable+"="+r.socket)
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	asks, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	for lines := bufio.NewScanner(asks); lines.Scan(); {
		if strings.TrimSpace(lines.Text()) == "restart" {
			r.end(syscall.SIGKILL)
			r.start()
			_, err := in.Write([]byte("done\n"))
			require.NoError(t, err)
		}
	}
	require.NoError(t, cmd.Wait(), "%s", said.String())
	require.Contains(t, said.String(), "OK")
	require.NotContains(t, said.String(), "skipped")
}

// samples are the blocks of a document that have a line.
func samples(t *testing.T, document, line string) (all []string) {
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	for i, block := range strings.Split(string(text), "```\n") {
		if i%2 == 1 && strings.Contains(block, line) {
			all = append(all, block)
		}
	}
	require.NotEmpty(t, all)
	return all
}
