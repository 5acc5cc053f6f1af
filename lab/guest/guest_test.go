package guest

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/lab/agent"
)

func TestParamsSurviveTheCommandLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Params{
			ID:      rapid.IntRange(1, MaxID).Draw(t, "id"),
			Systemd: rapid.Bool().Draw(t, "systemd"),
			Modules: "/" + rapid.StringMatching(`[a-z0-9/.+-]{0,40}`).Draw(t, "modules"),
			Root:    rapid.SampledFrom([]string{"", "/var/cache/trixie"}).Draw(t, "root"),
			Release: rapid.StringMatching(`[0-9]\.[0-9]{1,2}\.[0-9]+[+a-z0-9-]*`).Draw(t, "release"),
		}
		got, err := ParseParams("console=ttyS0 quiet " + p.CommandLine() + " panic=1\n")
		if err != nil || got != p {
			t.Fatalf("%+v came back as %+v, %v", p, got, err)
		}
	})
}

func TestParseParamsRefuses(t *testing.T) {
	for _, line := range []string{"", "lab.id=x", "lab.id=0", "lab.id=17", "lab.mode=plain"} {
		_, err := ParseParams(line)
		require.Error(t, err, line)
	}
}

// The kernel reads these bytes: sizeof(struct ifreq) is 40 on 64 bits, the
// family comes first and the address four bytes into the union.
func TestIfreqLayout(t *testing.T) {
	r := newIfreq("eth0").address(netip.MustParseAddr("10.77.0.3"))
	require.EqualValues(t, 40, unsafe.Sizeof(*r))
	require.Equal(t, "eth0\x00", string(r.name[:5]))
	require.Equal(t, []byte{unix.AF_INET, 0, 0, 0, 10, 77, 0, 3}, r.data[:8])
	require.Equal(t, []byte{unix.IFF_UP, 0}, newIfreq("lo").flags(unix.IFF_UP).data[:2])
}

func TestOpenPortGoesByName(t *testing.T) {
	class := t.TempDir()
	for dev, name := range map[string]string{"null": "org.other", "zero": PortName} {
		require.NoError(t, os.Mkdir(filepath.Join(class, dev), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(class, dev, "name"), []byte(name+"\n"), 0o644))
	}
	f, err := openPort(class, PortName)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, "/dev/zero", f.Name())
	_, err = openPort(class, "none")
	require.ErrorContains(t, err, `"none"`)
}

// The fence agent's whole way: dlm_controld's input, the socket in the node,
// the agent, the host's answer.
func TestFenceAsksTheHost(t *testing.T) {
	host, node := net.Pipe()
	var asked []string
	client, err := agent.NewClient(host, func(op string, args []string) (string, error) {
		asked = append(asked, op+" "+strings.Join(args, " "))
		if args[0] != "2" {
			return "", errors.New("no such node")
		}
		return "", nil
	})
	require.NoError(t, err)
	server, err := agent.NewServer(node)
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- server.Serve() }()
	socket := filepath.Join(t.TempDir(), "ask")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	go relayQuestions(l, server)
	t.Cleanup(func() {
		l.Close()
		client.Close()
		require.NoError(t, <-served)
	})

	require.NoError(t, Fence(strings.NewReader("x=1\nnode=2\nid=2\nfail_time=123\n"), socket))
	require.Equal(t, []string{"fence 2"}, asked)
	require.ErrorContains(t, Fence(strings.NewReader("node=7\n"), socket), "no such node")
	require.ErrorContains(t, Fence(strings.NewReader("x=1\n"), socket), "no node=N")
	require.Error(t, Fence(strings.NewReader("node=2\n"), socket+".none"), "unanswered is not fenced")
}

func TestShippedUnits(t *testing.T) {
	entries, err := fs.ReadDir(units, "systemd")
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
		body, err := units.ReadFile("systemd/" + e.Name())
		require.NoError(t, err)
		require.NotContains(t, masked, e.Name())
		require.True(t, strings.HasPrefix(string(body), "[Unit]\nDescription="), e.Name())
	}
	require.ElementsMatch(t, []string{"lab.target", "lab-agent.service", "lab-udev.service"}, names)
	agentUnit, err := units.ReadFile("systemd/lab-agent.service")
	require.NoError(t, err)
	require.Contains(t, string(agentUnit), "ExecStart="+AgentPath+" serve")
}
