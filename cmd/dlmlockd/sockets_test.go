package main

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A start that fails for want of descriptors is no mistake in the configuration or the command line, after which
// the unit would not start the service again.
func TestStartWithoutDescriptors(t *testing.T) {
	path := program(t)
	// Otherwise the descriptors that whoever runs the tests has left open would be among those that the limit
	// allows, and the runtime of Go could lack some before the program begins.
	require.NoError(t, unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC))
	for limit := 8; limit <= 20; limit++ {
		dir := t.TempDir()
		cmd := exec.Command("sh", "-c", fmt.Sprintf("ulimit -n %d; exec \"$@\"", limit), "sh", path, "--engine=local",
			"--bus=none", "--config="+os.DevNull, "--state-dir="+dir+"/state", "--varlink="+dir+"/varlink",
			"--virtlockd="+dir+"/virtlockd")
		var log strings.Builder
		cmd.Stderr = &log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, cmd.Start())
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		served := func() bool {
			info, err := os.Stat(dir + "/varlink")
			return err == nil && info.Mode().Perm() == 0o666
		}
		require.Eventually(t, func() bool {
			select {
			case <-ended:
				return true
			default:
				return served()
			}
		}, patience, time.Millisecond)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if !served() {
			require.Contains(t, []int{exitOK, exitFailed}, cmd.ProcessState.ExitCode(), "limit %d\n%s", limit, log.String())
		}
	}
}
