package polkit

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/internal/testpolkit"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
)

// sleeper runs a process of a user that is not on the bus, and returns what a
// socket tells of it. It ends with the test, or with end.
func sleeper(t *testing.T, u testbus.User) (who api.Subject, end func()) {
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.UID, Gid: u.GID}}
	require.NoError(t, cmd.Start())
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	pid := uint32(cmd.Process.Pid)
	start, err := process.Start(pid)
	require.NoError(t, err)
	return api.Subject{UID: u.UID, GIDs: []uint32{u.GID}, PID: pid, Start: start}, end
}

const nobodyInVMs = `polkit.addRule(function(action, subject) {
	if (subject.user == "nobody" && action.lookup("lockspace") == "vms") return polkit.Result.YES;
});`

// A caller that is not on the bus is known to polkit by its process and its
// user: rules see the user, and decide as for any other caller.
func TestProcessOfCaller(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, nobodyInVMs).Start()
	b := newBench(t, bus)
	nobody, _ := sleeper(t, testbus.Nobody)
	other, _ := sleeper(t, testbus.User{UID: 1, GID: 1})
	for _, a := range []api.Action{api.ActAcquire, api.ActReleaseOthers, api.ActManageLockspaces, api.ActPurge} {
		require.NoError(t, b.Authorize(t.Context(), nobody, a, disk("vms", "EX")))
		requireKind(t, api.AccessDenied, b.Authorize(t.Context(), nobody, a, disk("backup", "EX")))
		requireKind(t, api.AccessDenied, b.Authorize(t.Context(), other, a, disk("vms", "EX")))
	}
	require.NoError(t, b.Authorize(t.Context(), other, api.ActInspect, nil))
	require.NotContains(t, b.log.String(), "no polkit on the bus")
}

// A pid that belongs to another process by now is no caller, and neither is one
// that belongs to none.
func TestProcessThatHasEnded(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, nobodyInVMs).Start()
	b := newBench(t, bus)
	nobody, end := sleeper(t, testbus.Nobody)
	recycled := nobody
	recycled.Start--
	err := b.Authorize(t.Context(), recycled, api.ActAcquire, disk("vms", "EX"))
	requireKind(t, api.AccessDenied, err)
	require.ErrorContains(t, err, "has ended")
	require.NoError(t, b.Authorize(t.Context(), nobody, api.ActAcquire, disk("vms", "EX")))
	end()
	err = b.Authorize(t.Context(), nobody, api.ActAcquire, disk("vms", "EX"))
	requireKind(t, api.AccessDenied, err)
	require.ErrorContains(t, err, "has ended")
}

// A caller of whom no process is known is decided about by the fallback, which
// knows the user and the groups.
func TestUnknownProcess(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, nobodyInVMs).Start()
	b := newBench(t, bus)
	nobody, _ := sleeper(t, testbus.Nobody)
	nobody.Start = 0
	err := b.Authorize(t.Context(), nobody, api.ActAcquire, disk("vms", "EX"))
	requireKind(t, api.AccessDenied, err)
	require.ErrorContains(t, err, "locksmiths")
	nobody.GIDs = append(nobody.GIDs, 4242)
	require.NoError(t, b.Authorize(t.Context(), nobody, api.ActAcquire, disk("backup", "EX")))
}

// A person is asked by the agent of the process.
func TestProcessInteraction(t *testing.T) {
	bus := startBus(t)
	testpolkit.New(t, bus, askAdmin).Start()
	b := newBench(t, bus)
	start, err := process.Start(uint32(os.Getpid()))
	require.NoError(t, err)
	s := api.Subject{UID: testbus.Nobody.UID, GIDs: []uint32{testbus.Nobody.GID}, PID: uint32(os.Getpid()),
		Start: start}
	requireKind(t, api.InteractionRequired, b.Authorize(t.Context(), s, api.ActAcquire, disk("vms", "EX")))
	s.Interactive = true
	a := newAgent(t, bus, authenticate)
	require.NoError(t, b.Authorize(t.Context(), s, api.ActAcquire, disk("vms", "EX")))
	require.Equal(t, "org.example.DlmLock.acquire", (<-a.asked).Action)
}
