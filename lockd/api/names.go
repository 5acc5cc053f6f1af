package api

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ReservedPrefix begins the resource names that the service keeps for itself,
// such as the anchor of a lockspace. Clients can't lock them.
const ReservedPrefix = ".dlmlockd."

// AnchorName is the resource of the anchor, a persistent lock in mode NL by
// which an instance knows a lockspace again (design.md section 4).
func AnchorName(instance string) string { return ReservedPrefix + "anchor." + instance }

// Printable writes a name so that it can stand in one line of text, with
// escapes for what can't.
func Printable(name string) string {
	if utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 {
		return name
	}
	q := strconv.Quote(name)
	return q[1 : len(q)-1]
}
