package frontend

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Transportable makes any bytes a text that every door can carry, UTF-8 without
// NUL: a D-Bus string is that (D-Bus specification, "Basic types"), and so is a
// JSON string that other programs read. What is not is written as \xNN.
func Transportable(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == 0 || r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}
