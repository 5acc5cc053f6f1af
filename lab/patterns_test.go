package lab_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
)

// timer has the timer of docs/programs.md elapse on both nodes, in two nights. In each the
// job runs once, although it ends at once and both nodes start it. The clocks of the nodes
// are set to shortly after the time of the timer, which systemd notices.
func (f failover) timer(t *testing.T) {
	f.place(t, "A timer that runs a job once in the whole cluster", map[string]string{
		"/usr/local/bin/report": "#!/bin/sh\necho ran >>/root/report.runs\n",
	})
	for night := 1; night <= 2; night++ {
		before := map[*lab.Node]string{}
		for _, n := range f.cluster.Nodes() {
			before[n] = f.out(t, n, "systemctl show -P ExecMainExitTimestampMonotonic report.service")
		}
		for _, n := range f.cluster.Nodes() {
			f.on(t, n, "date --set @$(( ($(date +%s) / 86400 + 1) * 86400 + 3 * 3600 + 90 ))")
		}
		runs := ""
		for _, n := range f.cluster.Nodes() {
			f.await(t, n, "ended", "now=$(systemctl show -P ExecMainExitTimestampMonotonic report.service); "+
				"[ $now = "+strings.TrimSpace(before[n])+" ] || systemctl is-active report.service | "+
				"sed s/^inactive/ended/")
			require.Equal(t, "success\n", f.out(t, n, "systemctl show -P Result report.service"))
			runs += f.out(t, n, "cat /root/report.runs 2>/dev/null || true")
		}
		require.Equal(t, strings.Repeat("ran\n", night), runs, "night %d", night)
	}
	said := ""
	for _, n := range f.cluster.Nodes() {
		// By its name: if a process has ended, journald may not know any more which unit it belonged to.
		said += f.out(t, n, "journalctl --sync && journalctl -b -t dlmlockctl -o cat")
	}
	// Either it has run within the period, or the other node is running it.
	require.Equal(t, 2, strings.Count(said, "not run: "), said)
	for _, n := range f.cluster.Nodes() {
		f.on(t, n, "systemctl disable --now report.timer")
	}
}

// ledger is a service that gets its socket from systemd, tells everybody on which node it
// runs, and ends when it is asked to.
const ledger = `#!/usr/bin/python3
import os, socket
listening, word = socket.socket(fileno=3), ""
while word != "end":
    connection, _ = listening.accept()
    word = connection.recv(99).decode()
    connection.sendall(f"{word} from {os.uname().nodename}\n".encode())
    connection.close()
`

// ask connects to the ledger of its node, and prints what it says.
const ask = `#!/usr/bin/python3
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/run/ledger.socket")
s.sendall(sys.argv[1].encode())
print(s.recv(99).decode(), end="")
`

// socket connects on both nodes to the service of docs/programs.md. It runs on the first,
// and on the second once the first has ended. A loss of the lock ends it, too.
func (f failover) socket(t *testing.T) {
	f.place(t, "A service that is started by its socket", map[string]string{
		"/usr/local/bin/ledger": ledger, "/usr/local/bin/ask": ask,
	})
	const lock, service = "dlmlock@vms-ledger.service", "ledger.service"
	one, two := f.cluster.Node(1), f.cluster.Node(2)
	f.on(t, one, "! systemctl is-active "+lock)
	require.Equal(t, "hello from "+one.Name+"\n", f.out(t, one, "ask hello"))
	f.on(t, one, "systemctl is-active "+lock+" "+service)

	f.on(t, two, "systemd-run --unit=asking --property=StandardOutput=file:/root/answer ask waited")
	f.await(t, two, "ledger", "dlmlockctl waits vms ledger")
	f.on(t, two, "! systemctl is-active "+lock+" || exit 1; ! systemctl is-active "+service)
	require.Empty(t, f.out(t, two, "cat /root/answer"))

	require.Equal(t, "end from "+one.Name+"\n", f.out(t, one, "ask end"))
	f.await(t, two, "waited from "+two.Name, "cat /root/answer")
	f.await(t, one, "inactive", "systemctl is-active "+lock)
	f.on(t, one, "! systemctl is-active "+service)

	f.on(t, two, "systemctl kill --signal=KILL "+lock)
	f.await(t, two, "inactive", "systemctl is-active "+service)
	require.Equal(t, "again from "+two.Name+"\n", f.out(t, two, "ask again"))
	f.on(t, two, "ask end")
	f.await(t, two, "inactive", "systemctl is-active "+lock)
	require.Empty(t, f.out(t, two, "dlmlockctl list vms ledger --no-legend"))
	for _, n := range f.cluster.Nodes() {
		f.on(t, n, "systemctl disable --now ledger.socket")
	}
}

// place puts programs, and the units and the command of a section of docs/programs.md, on
// both nodes, and carries the command out.
func (f failover) place(t *testing.T, section string, programs map[string]string) {
	sample := unitsOfSection(t, section)
	ctx := lab.Context(t, "installing", commandTime)
	for _, n := range f.cluster.Nodes() {
		for path, text := range programs {
			require.NoError(t, n.Put(ctx, path, 0o755, []byte(text)))
		}
		for path, text := range sample.files {
			f.on(t, n, "mkdir -p "+filepath.Dir(path))
			require.NoError(t, n.Put(ctx, path, 0o644, []byte(text)))
		}
		f.on(t, n, "systemctl daemon-reload\n"+sample.commands)
	}
}

// out runs a line on a node, which must succeed, and returns what it prints.
func (f failover) out(t *testing.T, n *lab.Node, line string) string {
	t.Helper()
	return unitRig{t, f.cluster, n, nil}.run(line)
}

// unitsOfSection reads a section of docs/programs.md: the files of its block, each below
// its name as a comment, and the command that enables them.
func unitsOfSection(t *testing.T, section string) manualSample {
	text, err := os.ReadFile("../docs/programs.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(text), "\n## "+section+"\n")
	require.True(t, ok, section)
	rest, _, _ = strings.Cut(rest, "\n## ")
	_, block, _ := strings.Cut(rest, "```\n")
	block, prose, ok := strings.Cut(block, "```\n")
	require.True(t, ok, "a block in %s", section)
	s := manualSample{files: map[string]string{}}
	name := regexp.MustCompile(`(?m)^# (/etc/\S+)$\n`)
	found := name.FindAllStringSubmatchIndex(block, -1)
	require.NotEmpty(t, found)
	for i, m := range found {
		end := len(block)
		if i+1 < len(found) {
			end = found[i+1][0]
		}
		s.files[block[m[2]:m[3]]] = block[m[1]:end]
	}
	s.commands = regexp.MustCompile("(?m)^`(systemctl enable --now [^`]+)`").FindStringSubmatch(prose)[1]
	return s
}
