package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/internal/testpolkit"
)

// varlinkPerl calls the service from a process of its own: SOCKET, HOW, and calls. It
// prints the reply to each. HOW is "plain"; "child": a child makes the calls while its parent, who
// has connected, lives; "orphan": after the parent has ended, and is no zombie any more.
const varlinkPerl = `
my ($socket, $how, @calls) = @ARGV;
my $s = IO::Socket::UNIX->new($socket) or die "connect: $!";
$s->autoflush(1);
pipe(my $r, my $w);
my $parent;
if ($how ne "plain") {
	$parent = $$;
	my $pid = fork;
	if ($pid) { close $w; exit 0 if $how eq "orphan"; <$r>; exit 0 }
	while ($how eq "orphan" && -e "/proc/$parent") { select undef, undef, undef, 0.001 }
}
local $/ = "\0";
for (@calls) { print $s "$_\0"; my $reply = <$s>; chomp $reply; print "$reply\n" }
`

// callAs makes the calls as a user.
func callAs(t *testing.T, u testbus.User, socket, how string, calls ...fields) (replies []varlinkReply) {
	t.Helper()
	args := []string{"-MIO::Socket::UNIX", "-e", varlinkPerl, socket, how}
	for _, call := range calls {
		text, err := json.Marshal(call)
		require.NoError(t, err)
		args = append(args, string(text))
	}
	cmd := exec.Command("/usr/bin/perl", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: u.UID, Gid: u.GID}}
	out, err := cmd.Output()
	require.NoError(t, err)
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		var r varlinkReply
		require.NoError(t, json.Unmarshal([]byte(line), &r), line)
		replies = append(replies, r)
	}
	return replies
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

	// A child, which has inherited the connection, is whoever has connected; when that
	// one has ended, nobody can be asked about.
	r = callAs(t, testbus.Nobody, socket, "child", acquire("vms", "c"))
	require.NotNil(t, r[0].Parameters["granted"], "%v", r[0])
	for range 5 {
		r = callAs(t, testbus.Nobody, socket, "orphan", acquire("vms", "d"))
		require.Equal(t, denied, r[0].Error)
	}
	require.NotContains(t, p.log(), "no polkit on the bus")
}
