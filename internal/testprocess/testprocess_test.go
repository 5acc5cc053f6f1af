package testprocess

import (
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStop(t *testing.T) {
	cmd := exec.Command("sh", "-c", "while :; do :; done")
	require.NoError(t, cmd.Start())
	require.NoError(t, Stop(cmd.Process))
	stopped, err := allStopped(cmd.Process.Pid)
	require.NoError(t, err)
	require.True(t, stopped)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	require.Error(t, Stop(cmd.Process))
	_, err = allStopped(cmd.Process.Pid)
	require.ErrorContains(t, err, "is gone")
}
