package guest

import (
	"fmt"
	"strconv"
	"strings"
)

// Paths in the node.
const (
	// HostRoot is the host's root, read-only and never cached: the place to
	// take files from that change while the node runs.
	HostRoot = "/host"
	// RunDir is where the lab keeps its own files in the node.
	RunDir = "/run/lab"
	// AgentPath is the agent's program.
	AgentPath = RunDir + "/labagent"
	// FencePath is the same program as a fence agent for dlm_controld.
	FencePath = RunDir + "/fence"
	// AskSocket takes questions to the host from processes of the node.
	AskSocket = RunDir + "/ask.sock"
	// PortName is the name of the virtio-serial port that leads to the host.
	PortName = "lab.agent"
	// RootTag and HostTag are the 9p mount tags of the host's root, once for
	// the cached lower layer of the node's root and once for HostRoot.
	RootTag, HostTag = "labroot", "labhost"
)

// Params tell a node who it is. They travel on the kernel's command line.
type Params struct {
	ID      int    // number of the node, from 1
	Systemd bool   // systemd is process 1, not the lab's own
	Modules string // path on the host of the kernel's module tree
	Release string // the kernel's release
	Root    string // path on the host of the node's root; "" is the host's own
}

// CommandLine formats the parameters for the kernel's command line.
func (p Params) CommandLine() string {
	mode := "plain"
	if p.Systemd {
		mode = "systemd"
	}
	return fmt.Sprintf("lab.id=%d lab.mode=%s lab.release=%s lab.modules=%s lab.root=%s",
		p.ID, mode, p.Release, p.Modules, p.Root)
}

// ParseParams reads them back.
func ParseParams(cmdline string) (Params, error) {
	var p Params
	for _, word := range strings.Fields(cmdline) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "lab.id":
			id, err := strconv.Atoi(value)
			if err != nil {
				return p, fmt.Errorf("%s: %w", word, err)
			}
			p.ID = id
		case "lab.mode":
			p.Systemd = value == "systemd"
		case "lab.release":
			p.Release = value
		case "lab.modules":
			p.Modules = value
		case "lab.root":
			p.Root = value
		}
	}
	if p.ID < 1 || p.ID > MaxID {
		return p, fmt.Errorf("lab.id=%d: out of range 1 to %d", p.ID, MaxID)
	}
	return p, nil
}

// MaxID is the highest node number.
const MaxID = 16

// Hostname is the node's name.
func Hostname(id int) string { return fmt.Sprintf("node%d", id) }

// Address is the node's IPv4 address on the lab's Ethernet.
func Address(id int) string { return fmt.Sprintf("10.77.0.%d", id) }
