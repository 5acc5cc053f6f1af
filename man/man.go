// Package man holds the manual pages, in mdoc(7).
//
// It owns their text and the making of org.example.DlmLock(5) from its frame
// and the documented D-Bus interface in data, which stays the one source of
// what the members do. It refuses to know how pages are installed; that is
// man.mk. Its tests hold every page against what it describes.
//
// Concurrency: functions without state.
package man

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/dlmlock/dlmlockd/data"
)

//go:embed org.example.DlmLock.5.in
var frame string

// membersHere is the line of the frame that the members replace.
const membersHere = ".\\\" @MEMBERS@\n"

// Interface returns the page org.example.DlmLock(5). The error says where the
// introspection XML is not documented as the generator can read it.
func Interface() (string, error) {
	ifaces, err := parse(data.Introspection)
	if err != nil {
		return "", fmt.Errorf("data/org.example.DlmLock.xml: %w", err)
	}
	before, after, ok := strings.Cut(frame, membersHere)
	if !ok {
		return "", fmt.Errorf("org.example.DlmLock.5.in has no line for the members")
	}
	var b strings.Builder
	b.WriteString(before)
	for _, i := range ifaces {
		i.write(&b)
	}
	b.WriteString(after)
	return b.String(), nil
}
