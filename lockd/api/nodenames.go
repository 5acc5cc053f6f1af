package api

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// NodeNames are what the administrator calls the nodes of the cluster. It never changes, and two
// can be compared with ==, because a Status is. The zero value knows no names.
type NodeNames struct {
	// Missing says why the names could not be read the last time, for people; "" if they could. The
	// names that were read before stay. No names and no reason: the nodes have no names, or the
	// engine knows none.
	Missing string
	text    string // "number\x00name\x00" of each node, by number
}

// NamesOf makes NodeNames of a map.
func NamesOf(names map[uint32]string) NodeNames {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(names)) {
		if name := strings.ReplaceAll(names[id], "\x00", ""); name != "" {
			b.WriteString(strconv.FormatUint(uint64(id), 10) + "\x00" + name + "\x00")
		}
	}
	return NodeNames{text: b.String()}
}

// Map returns the names by the numbers of their nodes. A node that has no name is not in it.
func (n NodeNames) Map() map[uint32]string {
	names := make(map[uint32]string)
	for text := n.text; text != ""; {
		var id, name string
		id, text, _ = strings.Cut(text, "\x00")
		name, text, _ = strings.Cut(text, "\x00")
		number, _ := strconv.ParseUint(id, 10, 32)
		names[uint32(number)] = name
	}
	return names
}
