package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/internal/testpolkit"
)

// varlinkUser calls the service with a connection that need not be its own: SOCKET, HOW, the user who
// connects, the user who calls, and calls. It prints the reply to each. HOW is one of
// plain: who calls has connected.
// child: the connection was inherited from a parent, which lives.
// zombie: the parent has ended, and nobody has waited for it.
// orphan: the parent has ended and is no zombie any more.
// passed: a process that lives has passed the connection on (SCM_RIGHTS, unix(7)).
// left: the same, and that process has ended.
// reused: the same, and another process of its user has its pid now. The status is 75 if an unrelated
// process got the pid first.
const varlinkUser = `
import os, socket, sys, time
path, how, connects, caller, *calls = sys.argv[1:]

def become(uid):
    os.setgroups([]); os.setgid(int(uid)); os.setuid(int(uid))

def make_calls(s):
    f = s.makefile("rb")
    for call in calls:
        s.sendall(call.encode() + b"\0")
        reply = b""
        while not reply.endswith(b"\0"):
            reply += f.read(1) or sys.exit("the service has hung up")
        print(reply[:-1].decode(), flush=True)

def state(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"

def connector():
    become(connects)
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    if how in ("passed", "left", "reused"):
        s.sendall(b'{"method":"org.varlink.service.GetInfo"}\0')  # the service has seen who connects
        while not s.recv(65536).endswith(b"\0"):
            pass
        socket.send_fds(theirs, [b"x"], [s.fileno()])
        if how == "passed":
            theirs.recv(1)
        return
    parent = os.getpid()
    if how == "plain" or os.fork() == 0:
        while how == "zombie" and state(parent) != "Z" or how == "orphan" and state(parent) != "gone":
            time.sleep(0.001)
        make_calls(s)
    elif how == "child":
        os.wait()

def reuse(pid):
    time.sleep(0.02)  # no kernel reuses a pid within one tick of the clock of start times
    end = time.monotonic() + 1
    while time.monotonic() < end:
        with open("/proc/sys/kernel/ns_last_pid", "w") as f:  # needs CONFIG_CHECKPOINT_RESTORE
            f.write(str(pid - 1))
        heir = os.fork()
        if heir == 0:
            ours.close()
            become(connects)
            theirs.recv(1)  # until whoever calls has ended
            os._exit(0)
        if heir == pid:
            return
        ours.send(b"x")
        os.waitpid(heir, 0)
    sys.exit(75)  # another process has the pid and keeps it

ours, theirs = socket.socketpair()
pid = os.fork()
if pid == 0:
    ours.close()
    connector()
    os._exit(0)
if how in ("passed", "left", "reused"):
    s = socket.socket(fileno=socket.recv_fds(ours, 1, 1)[1][0])
    if how != "passed":
        os.waitpid(pid, 0)
    if how == "reused":
        reuse(pid)
    become(caller)
    make_calls(s)
    ours.close()
else:
    theirs.close()
    if how == "orphan":
        os.waitpid(pid, 0)
    ours.recv(1)  # until all of them have ended
`

// callAs makes the calls as a user.
func callAs(t *testing.T, u testbus.User, socket, how string, calls ...fields) []varlinkReply {
	t.Helper()
	return callThrough(t, u.UID, u.UID, socket, how, calls...)
}

// callThrough has one user connect and another one call.
func callThrough(t *testing.T, connects, caller uint32, socket, how string, calls ...fields) (replies []varlinkReply) {
	t.Helper()
	args := []string{"-c", varlinkUser, socket, how, fmt.Sprint(connects), fmt.Sprint(caller)}
	for _, call := range calls {
		text, err := json.Marshal(call)
		require.NoError(t, err)
		args = append(args, string(text))
	}
	out, code := callOnce(t, args)
	for round := 0; code == 75; round++ {
		require.Less(t, round, 20, "another process always comes first")
		out, code = callOnce(t, args)
	}
	require.Zero(t, code, "%s: %s", how, out)
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		var r varlinkReply
		require.NoError(t, json.Unmarshal([]byte(line), &r), line)
		replies = append(replies, r)
	}
	return replies
}

// callOnce runs varlinkUser. It returns what it printed, or its errors, and its status.
func callOnce(t *testing.T, args []string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", args...)
	cmd.WaitDelay = time.Second
	var said strings.Builder
	cmd.Stderr = &said
	text, err := cmd.Output()
	if err == nil {
		return string(text), 0
	}
	require.NotNil(t, cmd.ProcessState, "%v", err)
	return err.Error() + ": " + said.String(), cmd.ProcessState.ExitCode()
}

// The real polkitd decides about callers that have no name on the bus, by the
// process that has connected.
func TestVarlinkPolkit(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon, testpolkit.BusPolicy(t)), t.TempDir()
	testpolkit.New(t, bus, `
polkit.addAdminRule(function(action, subject) { return ["unix-user:0"]; });
polkit.addRule(function(action, subject) {
	if (subject.user == "nobody" && action.lookup("lockspace") == "vms") return polkit.Result.YES;
	if (action.lookup("lockspace") == "asks") return polkit.Result.AUTH_ADMIN;
});`).Start()
	socket := filepath.Join(dir, "varlink")
	// The group counts where there is no polkit, and nobody is in it.
	file := configured(t, "group = \"nogroup\"\n")
	p := start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket, "--config="+file)
	openDirectories(t, socket)
	c := dialVarlink(t, socket)
	for _, space := range []string{"vms", "backup", "asks"} {
		c.ok("JoinLockspace", fields{"lockspace": space})
	}
	acquire := func(space, resource string) fields {
		return fields{"method": "org.example.DlmLock.Acquire",
			"parameters": fields{"lockspace": space, "resource": resource, "mode": "ex"}}
	}
	const denied, interactive = "org.varlink.service.PermissionDenied", "io.systemd.InteractiveAuthenticationRequired"
	asking := acquire("asks", "b")
	asking["parameters"].(fields)["allowInteractiveAuthentication"] = true
	r := callAs(t, testbus.Nobody, socket, "plain",
		acquire("vms", "a"), acquire("backup", "a"), acquire("asks", "a"), asking)
	require.NotNil(t, r[0].Parameters["granted"], "%v", r[0])
	require.Equal(t, denied, r[1].Error)
	require.Contains(t, r[1].Parameters["message"], "polkit refuses org.example.DlmLock.acquire")
	require.Equal(t, interactive, r[2].Error)
	require.Equal(t, denied, r[3].Error)
	require.Contains(t, r[3].Parameters["message"], "no authentication agent")

	// Another user's process, and root, of whom nobody is asked.
	r = callAs(t, testbus.User{UID: 1, GID: 1}, socket, "plain", acquire("vms", "b"))
	require.Equal(t, denied, r[0].Error)
	r = callAs(t, testbus.Root, socket, "plain", acquire("backup", "b"))
	require.NotNil(t, r[0].Parameters["granted"])

	require.NotContains(t, p.log(), "no polkit on the bus")
}

// A connection belongs to whoever has made it. Others may use it, if that process has given it to them,
// for as long as it lives; then polkit can't be asked about anybody, and everything is refused, also
// while the kernel still knows the process as a zombie, and when another one has its pid. Of root
// nobody is asked, so a connection of root stays one.
func TestVarlinkPolkitOfOthersConnections(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon, testpolkit.BusPolicy(t)), t.TempDir()
	testpolkit.New(t, bus, `polkit.addRule(function(action, subject) {
		if (subject.user == "nobody") return polkit.Result.YES; });`).Start()
	socket := filepath.Join(dir, "varlink")
	file := configured(t, "group = \"nogroup\"\n")
	p := start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket, "--config="+file)
	openDirectories(t, socket)
	dialVarlink(t, socket).ok("JoinLockspace", fields{"lockspace": "vms"})
	const root, nobody, other = 0, 65534, 1
	for n, x := range []struct {
		how              string
		connects, caller uint32
		may              bool
	}{
		{"plain", nobody, nobody, true},
		{"plain", other, other, false},
		{"child", nobody, nobody, true},
		{"zombie", nobody, nobody, false},
		{"orphan", nobody, nobody, false},
		{"passed", nobody, other, true},
		{"passed", other, nobody, false},
		{"left", nobody, other, false},
		{"left", nobody, nobody, false},
		{"reused", nobody, other, false},
		{"reused", nobody, nobody, false},
		{"passed", root, nobody, true},
		{"zombie", root, root, true},
		{"left", root, nobody, true},
		{"reused", root, other, true},
	} {
		if x.how == "reused" {
			if _, err := os.Stat("/proc/sys/kernel/ns_last_pid"); err != nil {
				t.Logf("this kernel does not let a test choose a pid: %v", err)
				continue
			}
		}
		r := callThrough(t, x.connects, x.caller, socket, x.how, fields{"method": "org.example.DlmLock.Acquire",
			"parameters": fields{"lockspace": "vms", "resource": fmt.Sprint(n), "mode": "ex"}})[0]
		if x.may {
			require.NotNil(t, r.Parameters["granted"], "%v: %v", x, r)
			continue
		}
		require.Equal(t, "org.varlink.service.PermissionDenied", r.Error, "%v: %v", x, r)
		if x.connects == nobody {
			require.Contains(t, r.Parameters["message"], "which has connected, has ended; connect again", x)
		}
	}
	require.NotContains(t, p.log(), "no polkit on the bus")
}
