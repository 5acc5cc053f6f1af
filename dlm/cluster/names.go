package cluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/dlmlock/dlmlockd/dlm"
)

// corosyncConf is corosync's configuration (corosync.conf(5)). The same names are in corosync's
// cmap, but cmap is reached through an abstract socket and files in /dev/shm, neither of which
// exists in the service's sandbox; the file can be read from everywhere.
const corosyncConf = "etc/corosync/corosync.conf"

// maxConf is the largest configuration that is read. One of 1,000 nodes has 100 KB.
const maxConf = 1 << 20

// NodeNames returns what the nodelist of corosync's configuration calls the nodes: the name, or
// the address where that is a host name, as Pacemaker does. A node that has neither is not in the
// map. An error means that it is not known which names there are.
func (h *Host) NodeNames(context.Context) (map[uint32]string, error) {
	f, err := os.Open(h.path(corosyncConf))
	if err != nil {
		return nil, namesError(err)
	}
	defer f.Close()
	names, err := readNames(f)
	if err != nil {
		return nil, namesError(fmt.Errorf("/%s: %w", corosyncConf, err))
	}
	return names, nil
}

func namesError(err error) error {
	return &dlm.Error{Op: "names", Err: err, Advice: "the nodes' names are those in /" + corosyncConf}
}

// readNames reads corosync.conf: lines "section {", "key: value", "}" and comments, told apart by
// the first of these characters that is found, in this order (parse_section in coroparse.c).
func readNames(in io.Reader) (map[uint32]string, error) {
	limited := &io.LimitedReader{R: in, N: maxConf + 1}
	names := make(map[uint32]string)
	var path []string
	var node map[string]string
	lines := bufio.NewScanner(limited)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		key, value, isKey := strings.Cut(line, ":")
		switch section, _, opens := strings.Cut(line, "{"); {
		case line == "" || line[0] == '#':
		case opens:
			path = append(path, strings.TrimSpace(section))
			if isNode(path) {
				node = make(map[string]string)
			}
		case isKey && isNode(path):
			node[strings.TrimSpace(key)] = strings.TrimSpace(value)
		case isKey:
		case strings.Contains(line, "}") && len(path) > 0:
			if isNode(path) {
				addName(names, node)
			}
			path = path[:len(path)-1]
		default:
			return nil, fmt.Errorf("line %d is not of the form of corosync.conf(5)", n)
		}
	}
	switch {
	case lines.Err() != nil:
		return nil, lines.Err()
	case limited.N == 0:
		return nil, fmt.Errorf("it has more than %d bytes", maxConf)
	case len(path) > 0:
		return nil, fmt.Errorf("section %q has no end", path[len(path)-1])
	}
	return names, nil
}

func isNode(path []string) bool {
	return len(path) == 2 && path[0] == "nodelist" && path[1] == "node"
}

// addName adds the name of one node of the nodelist. Without a nodeid corosync makes one from an
// IPv4 address, which this package does not imitate: such a node has no name.
func addName(names map[uint32]string, node map[string]string) {
	id, err := strconv.ParseUint(node["nodeid"], 10, 32)
	if err != nil || id == 0 {
		return
	}
	name := node["name"]
	if name == "" {
		name = node["ring0_addr"]
		if _, err := netip.ParseAddr(name); err == nil {
			name = ""
		}
	}
	if name != "" {
		names[uint32(id)] = name
	}
}
