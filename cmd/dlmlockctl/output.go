package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// output is the standard output. It remembers the first write that failed.
type output struct {
	to  io.Writer
	err error // of the first write that failed
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	n, err := o.to.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// close closes a file. Some file systems report a failed write only then.
func (o *output) close() {
	if f, ok := o.to.(*os.File); ok {
		if err := f.Close(); o.err == nil {
			o.err = err
		}
	}
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	if o, ok := stream.(*output); ok {
		stream = o.to
	}
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// colour is an escape sequence that sets the color of text on a terminal
// (ECMA-48, SGR).
type colour string

const (
	plain  colour = ""
	bold   colour = "\x1b[1m"
	red    colour = "\x1b[31m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
)

// coloured reports whether to use colors on a stream: if it is a terminal that is
// not dumb, and NO_COLOR is not set (no-color.org).
func coloured(stream io.Writer) bool {
	return isTerminal(stream) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// visible makes a text safe for a terminal: it replaces characters that are
// invisible or move the cursor with escapes. Names and labels come from other users.
func visible(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		} else if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
		i += n
	}
	return b.String()
}

// printJSON writes one value, indented.
func (p *printer) printJSON(v any) error {
	return p.encodeJSON(v, "  ")
}

// encodeJSON writes one value and a line feed, in one line without an indent. It is encoded as a whole
// first, so a value that can't be encoded leaves no half of it in the output.
func (p *printer) encodeJSON(v any, indent string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := p.out.Write(escapeJSON(b.Bytes()))
	return err
}

// escapeJSON escapes invisible characters in a JSON text, such as the C1 controls,
// which terminals obey, and those that change the direction of writing. The value
// stays the same, and so do the line feeds between the values.
func escapeJSON(text []byte) []byte {
	hidden := func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }
	if bytes.IndexFunc(text, hidden) < 0 {
		return text
	}
	var b []byte
	for _, r := range string(text) {
		switch high, low := utf16.EncodeRune(r); {
		case !hidden(r):
			b = utf8.AppendRune(b, r)
		case high != unicode.ReplacementChar:
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b
}

// show writes v as JSON with --json, and calls people otherwise; with --quiet it
// does neither. What people writes may fail; output remembers that, and Main reports it.
func (p *printer) show(v any, people func()) error {
	switch {
	case p.quiet:
	case p.json:
		return p.printJSON(v)
	default:
		people()
	}
	return nil
}

// say writes what was done.
func (p *printer) say() { p.printf("%s\n", visible(p.done)) }

// printf writes text for people.
func (p *printer) printf(format string, args ...any) { fmt.Fprintf(p.out, format, args...) }

// none says on standard error that there is nothing to list. The output stays
// empty, for scripts.
func (p *printer) none(what string) { fmt.Fprintf(p.err, "No %s.\n", what) }

// clock shows a time as local time.
func clock(t time.Time) cell {
	if t.IsZero() {
		return cell{}
	}
	return cell{t.Local().Format("2006-01-02 15:04:05"), plain}
}

// plural returns a number with its noun: "1 lock", "2 locks".
func plural[T ~uint32 | ~int](n T, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
