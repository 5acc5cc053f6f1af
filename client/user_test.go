package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// asHolder, in the environment, makes this program a holder of locks that changes its user (beHolder).
const asHolder = "CLIENT_TEST_HOLDER"

// beHolder takes two locks as root, becomes nobody, and says how it loses the first and what becomes of
// the release of the second.
func beHolder(socket string) int {
	c := OpenVarlink(socket)
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var held [2]*Held
	for i, resource := range []string{"a", "b"} {
		var err error
		if held[i], err = c.Hold(ctx, []Want{{"vms", resource, "EX"}}, Options{}); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	if err := syscall.Setuid(nobody); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("holding")
	<-held[0].Lost()
	fmt.Println("lost:", held[0].Loss().Reason)
	err := held[1].Release(ctx)
	fmt.Println("denied:", errors.Is(err, AccessDenied) || errors.Is(err, InteractionRequired), err)
	return 0
}

// nobody is the uid of the user nobody.
const nobody = 65534

// A program that takes locks as root and then changes its user notices losses even after a restart of
// the service. Release fails for a lock that it may no longer release.
func TestHolderChangesItsUser(t *testing.T) {
	r := startReal(t)
	admin := r.open(true)
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), asHolder+"="+r.socket)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	says := func(want string) {
		t.Helper()
		require.True(t, lines.Scan())
		require.Regexp(t, want, lines.Text())
	}
	says("^holding$")
	r.end(syscall.SIGKILL)
	r.start()
	require.NoError(t, admin.Release(t.Context(), "vms", "a", Selector{}))
	says("^lost: somebody else released it$")
	says("^denied: true ")
	require.NoError(t, cmd.Wait())
	require.Eventually(t, func() bool { return len(heldLocks(t, admin, "b")) == 0 }, patience, time.Millisecond)
}

// The changes of another user's locks are not reported, so those locks are asked about often.
func TestWatchOfAnotherUser(t *testing.T) {
	r := startReal(t)
	v := newVarlink(r.socket)
	defer v.close()
	for uid, complete := range map[int]bool{os.Geteuid(): true, nobody: false} {
		var is atomic.Bool
		_, err := v.watchOwners(t.Context(), owners{"go-", true, uid}, &is)
		require.NoError(t, err)
		require.Equal(t, complete, is.Load())
	}
}
