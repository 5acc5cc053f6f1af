package lab_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab/guest"
)

// locksOfUnits has systemd as process 1 keep locks with nothing of ours: a unit of varlinkctl is active
// while it has the lock, and a command runs while it has the descriptor of one. Both outlive a restart
// and kill -9 of the service.
func locksOfUnits(t *testing.T, r unitRig) {
	client, err := filepath.Abs("../bin/varlink-clients/varlinkctl-testing")
	require.NoError(t, err)
	require.FileExists(t, client, "make varlink-clients")
	if os.Getenv("LAB_ROOT") != "" {
		client = guest.HostRoot + client // that root has no such directory
	}
	require.NotRegexp(t, "^(/var)?/tmp/", client, "nodes have a /tmp of their own: clone the repository elsewhere")
	const call = "busctl call org.example.DlmLock /org/example/DlmLock org.example.DlmLock "
	const list = call + "ListLocks 'a{sv}' 1 lockspace s vms"
	const stored = "systemctl show -P NFileDescriptorStore dlmlockd"
	unit := func(name, text string) {
		r.run("printf '%s' \"" + text + "\" >/run/systemd/system/" + name)
	}
	unit("holder.service", `[Service]
Type=notify
ExecStart=`+client+` call -E /run/dlmlock/org.example.DlmLock org.example.DlmLock.Acquire `+
		`'{\"lockspace\":\"vms\",\"resource\":\"job\",\"mode\":\"ex\",\"label\":\"unit\",\"lifetime\":\"connection\"}'
TimeoutStartSec=infinity
`)
	unit("after.service", `[Unit]
Requires=holder.service
After=holder.service
[Service]
ExecStart=sleep infinity
`)
	r.run("systemctl daemon-reload && systemctl start dlmlockd-varlink.socket")
	require.Equal(t, "666 755\n", r.run("echo $(stat -c %a /run/dlmlock/org.example.DlmLock /run/dlmlock)"))

	// The unit is active when it has the lock, and not before.
	r.run(call + "Acquire 'sssa{sv}' vms job EX 1 owner s other")
	r.run("systemctl start --no-block after.service")
	r.await(`"acquiring"`, list)
	require.Equal(t, "activating inactive\n", r.run("echo $(systemctl is-active holder after)"))
	r.run(call + "Release 'ssa{sv}' vms job 1 owner s other")
	r.await("active active", "echo $(systemctl is-active holder after)")
	require.Contains(t, r.run(list), `"unit"`)

	// A command has the lock while it runs.
	r.run("systemd-run --unit=command --collect " + client + " --exec call /run/dlmlock/org.example.DlmLock " +
		`org.example.DlmLock.Acquire '{"lockspace":"vms","resource":"fd","mode":"ex","label":"command",` +
		`"lifetime":"descriptor"}'` +
		" -- sleep infinity")
	r.await(`"command"`, list)
	require.Equal(t, "2\n", r.run(stored))

	pids := r.run("systemctl show -P MainPID holder command")
	for _, how := range []string{"restart", "kill -s KILL", "kill -s KILL"} {
		before := r.run("systemctl show -P InvocationID dlmlockd")
		r.run("systemctl " + how + " dlmlockd")
		r.await("another", "[ \"$(systemctl show -P InvocationID dlmlockd)\" = "+before[:32]+" ] || echo another")
		locks := r.run(list)
		require.Contains(t, locks, `"unit"`, how)
		require.Contains(t, locks, `"command"`, how)
		require.Equal(t, "active active active\n", r.run("echo $(systemctl is-active holder after command)"), how)
		require.Equal(t, pids, r.run("systemctl show -P MainPID holder command"), how)
		require.Equal(t, "2\n", r.run(stored), how)
	}
	r.run("systemctl stop command holder")
	r.await("free", list+" | grep -qE '\"(unit|command)\"' || echo free")
	r.await("0\n", stored)
	require.Equal(t, "inactive inactive\n", r.run("echo $(systemctl is-active holder after)"))
	r.run("rm /run/systemd/system/holder.service /run/systemd/system/after.service; systemctl daemon-reload")
}
