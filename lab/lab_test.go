package lab

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// bare returns a cluster that is only described.
func bare(config Config, nodes int) *Cluster {
	c := &Cluster{config: config.withDefaults()}
	for id := 1; id <= nodes; id++ {
		c.nodes = append(c.nodes, &Node{ID: id, Name: "node" + string(rune('0'+id)), Addr: "10.77.0." + string(rune('0'+id)),
			cluster: c})
	}
	return c
}

func TestParseQuorum(t *testing.T) {
	const out = `Quorum information
------------------
Date:             Sun Nov 22 22:34:06 2026
Quorum provider:  corosync_votequorum
Nodes:            2
Node ID:          1
Ring ID:          1.9
Quorate:          Yes

Membership information
----------------------
    Nodeid      Votes    Qdevice Name
         1          1         NR node1 (local)
        12          1 node2
`
	require.Equal(t, Quorum{Quorate: true, Members: []int{1, 12}}, parseQuorum(out))
	require.Equal(t, Quorum{Members: []int{1, 12}}, parseQuorum(strings.Replace(out, "Yes", "No", 1)))
	require.Equal(t, Quorum{}, parseQuorum("Cannot initialize QUORUM service\n"))
}

func TestCorosyncConf(t *testing.T) {
	two := bare(Config{Token: 7 * time.Second}, 2).corosyncConf()
	require.Contains(t, two, "token: 7000\n  consensus: 2800\n")
	require.Contains(t, two, "two_node: 1\n  wait_for_all: 0\n")
	require.Contains(t, two, "ring0_addr: 10.77.0.2\n    nodeid: 2\n    name: node2\n")
	three := bare(Config{}, 3).corosyncConf()
	require.Contains(t, three, "token: 5000\n  consensus: 6000\n")
	require.NotContains(t, three, "two_node", "three nodes have real majorities")
	require.Equal(t, strings.Count(three, "{"), strings.Count(three, "}"))
}

func TestDLMConf(t *testing.T) {
	require.Equal(t, "enable_fencing=0\nenable_startup_fencing=0\n", bare(Config{}, 2).dlmConf())
	fencing := bare(Config{Fencing: true}, 2).dlmConf()
	require.Equal(t, "enable_fencing=1\nenable_startup_fencing=0\npost_join_delay=10\n"+
		"device labfence /run/lab/fence x=1\n"+
		"connect labfence node=1 id=1\nconnect labfence node=2 id=2\n", fencing)
}

func TestFenceRefusesUnknownNodes(t *testing.T) {
	c := bare(Config{}, 2)
	for _, victim := range []string{"", "x", "0", "3"} {
		require.Error(t, c.fence(c.Node(1), victim), victim)
	}
	require.NoError(t, c.fence(c.Node(1), "2"), "a node that is off is fenced")
	fenced := c.Fenced()
	require.Len(t, fenced, 1)
	require.Equal(t, 2, fenced[0].Node)
	require.Equal(t, 1, fenced[0].By)
}

func TestOneLabAtATime(t *testing.T) {
	cache := t.TempDir()
	first, err := lockLab(t.Context(), cache, func(string) { t.Error("nobody is in the way") })
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = lockLab(ctx, cache, func(holder string) {
		require.Contains(t, holder, "pid ")
		cancel()
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, first.Close())
	again, err := lockLab(t.Context(), cache, func(string) {})
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

// The clusters of one process share the lock, which ends with the last of them.
func TestClustersOfOneProcessShareTheLock(t *testing.T) {
	cache := t.TempDir()
	var l sharedLock
	one, err := l.take(t.Context(), cache, func(string) { t.Error("nobody is in the way") })
	require.NoError(t, err)
	two, err := l.take(t.Context(), cache, func(string) { t.Error("nobody is in the way") })
	require.NoError(t, err)
	one()
	one()
	ctx, cancel := context.WithCancel(t.Context())
	_, err = lockLab(ctx, cache, func(string) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	two()
	f, err := lockLab(t.Context(), cache, func(string) {}) // the one that gave up may have it for a moment
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

func TestDirectoriesFollowTheEnvironment(t *testing.T) {
	t.Setenv("LAB_CACHE", filepath.Join(t.TempDir(), "made"))
	dir, err := CacheDir()
	require.NoError(t, err)
	require.DirExists(t, dir)
	require.Equal(t, os.Getenv("LAB_CACHE"), dir)
	root, err := Repository()
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(root, "go.mod"))
}

// A cluster without running nodes still answers on its control socket.
func TestControl(t *testing.T) {
	c := bare(Config{}, 2)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- c.ServeControl(t.Context(), l) }()
	remote := Attach(socket)

	_, err = remote.Do(t.Context(), "nonsense")
	require.ErrorContains(t, err, `unknown command "nonsense"`)
	_, err = remote.Do(t.Context(), "crash", "9")
	require.ErrorContains(t, err, `no node "9"`)
	_, err = remote.Do(t.Context(), "crash", "1")
	require.NoError(t, err, "a node that is off")
	require.ErrorContains(t, remote.Agent(1).Hello(t.Context()), ErrDown.Error())

	conn, err := net.Dial("unix", socket)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "what\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "error ")

	_, err = remote.Do(t.Context(), "down")
	require.NoError(t, err)
	require.NoError(t, <-served)
	_, err = remote.Do(t.Context(), "status")
	require.ErrorContains(t, err, "labctl up")
}
