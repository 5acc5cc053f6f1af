// Package man holds the manual pages, in mdoc(7).
//
// It owns their text and the making of org.example.DlmLock(5) from its frame
// and the documented interfaces in data, for D-Bus and Varlink, which stay the one
// source of what the members do. It refuses to know how pages are installed; that is
// man.mk. Its tests hold every page against what it describes.
//
// Concurrency: functions without state.
package man

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
)

//go:embed org.example.DlmLock.5.in
var frame string

// membersHere is the line of the frame that the members replace.
const membersHere = ".\\\" @MEMBERS@\n"

// Interface returns the page org.example.DlmLock(5), made from files by name:
// introspection XML, the root object's and those of the objects below it, and the
// Varlink interface, whose name ends in .varlink. The
// error says where one is not documented as the generator can read it.
func Interface(files map[string]string) (string, error) {
	var ifaces []*iface
	varlink := ""
	for name, text := range files {
		if strings.HasSuffix(name, ".varlink") {
			varlink = text
			continue
		}
		more, err := parse(text)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		ifaces = append(ifaces, more...)
	}
	if len(ifaces) == 0 || varlink == "" {
		return "", errors.New("no interface to describe")
	}
	slices.SortFunc(ifaces, func(a, b *iface) int { return strings.Compare(a.name, b.name) })
	before, after, ok := strings.Cut(frame, membersHere)
	between, after, ok2 := strings.Cut(after, varlinkHere)
	if !ok || !ok2 {
		return "", errors.New("org.example.DlmLock.5.in has no lines for the members")
	}
	var b strings.Builder
	b.WriteString(before)
	for _, i := range ifaces {
		i.write(&b)
	}
	b.WriteString(between)
	if err := writeVarlink(&b, varlink); err != nil {
		return "", fmt.Errorf("the Varlink interface: %w", err)
	}
	b.WriteString(after)
	return b.String(), nil
}
