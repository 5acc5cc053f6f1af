package main

import (
	"strings"
	"unicode"

	"github.com/dlmlock/dlmlockd/client"
)

// snake turns the name of a property, or the key of a detail on the bus, into the
// form of all names in JSON: QuorumState and value-invalid become quorum_state and
// value_invalid.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		switch {
		case r == '-':
			b.WriteByte('_')
		case !unicode.IsUpper(r):
			b.WriteRune(r)
		default:
			after := i > 0 && !unicode.IsUpper(runes[i-1])
			before := i > 0 && i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if after || before {
				b.WriteByte('_')
			}
			b.WriteRune(unicode.ToLower(r))
		}
	}
	return b.String()
}

// properties prepares the properties of the service for JSON: with names in one
// case, and without those that say that something is not known or does not apply.
func properties(st map[string]any) map[string]any {
	out := map[string]any{}
	for name, v := range st {
		names, named := v.(map[uint32]string)
		switch {
		case named && len(names) == 0:
		case v == "", name == "NodeID" && v == uint32(0):
		case name == "Quorate" && (st["QuorumState"] == nil || st["QuorumState"] == "unknown"):
		default:
			out[snake(name)] = v
		}
	}
	return out
}

// details prepares the details of an event for JSON.
func details(e client.Event) client.Event {
	if e.Details != nil {
		all := map[string]any{}
		for key, v := range e.Details {
			all[snake(key)] = v
		}
		e.Details = all
	}
	return e
}
