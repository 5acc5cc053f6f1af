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

// output is the standard output, which remembers that a write has failed.
type output struct {
	to  io.Writer
	err error // the first
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	n, err := o.to.Write(b)
	if o.err == nil {
		o.err = err
	}
	return n, err
}

// close closes a file: some file systems say only then that nothing was written.
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

// colour is an escape sequence for a terminal (ECMA-48, SGR).
type colour string

const (
	plain  colour = ""
	bold   colour = "\x1b[1m"
	red    colour = "\x1b[31m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
)

// coloured reports whether a stream takes colours: a terminal, unless NO_COLOR
// is set to anything (no-color.org) or the terminal is dumb.
func coloured(stream io.Writer) bool {
	return isTerminal(stream) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// visible makes a text fit for a terminal: what can't be seen, or would move
// the cursor, is shown as an escape. Names and labels come from other users.
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

// cell is one field of a table.
type cell struct {
	text   string
	colour colour
}

func text(s string) cell { return cell{visible(s), plain} }

func number[T ~uint32 | ~int32 | ~uint64](n T) cell { return cell{fmt.Sprint(n), plain} }

// table is rows of aligned columns below a heading.
type table struct {
	heading []string
	rows    [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

// write aligns the columns two blanks apart. An empty cell is "-", so that a
// column keeps its number for awk.
func (t *table) write(w io.Writer) {
	width := make([]int, len(t.heading))
	for i, h := range t.heading {
		width[i] = utf8.RuneCountInString(h)
	}
	for _, row := range t.rows {
		for i := range row {
			if row[i].text == "" {
				row[i].text = "-"
			}
			width[i] = max(width[i], utf8.RuneCountInString(row[i].text))
		}
	}
	head := make([]cell, len(t.heading))
	for i, h := range t.heading {
		head[i] = cell{h, bold}
	}
	paint := coloured(w)
	var b strings.Builder
	for _, row := range append([][]cell{head}, t.rows...) {
		for i, c := range row {
			last := i == len(row)-1
			pad := 0
			if !last {
				pad = width[i] + 2 - utf8.RuneCountInString(c.text)
			}
			if paint && c.colour != plain {
				c.text = string(c.colour) + c.text + "\x1b[0m"
			}
			b.WriteString(c.text + strings.Repeat(" ", pad))
		}
		b.WriteByte('\n')
	}
	_, _ = io.WriteString(w, b.String()) // output remembers
}

// printJSON writes one value, indented.
func (a *app) printJSON(v any) error {
	return a.encodeJSON(v, "  ")
}

// encodeJSON writes one value and a line feed, in one line without an indent.
func (a *app) encodeJSON(v any, indent string) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := a.out.Write(escapeJSON(b.Bytes()))
	return err
}

// escapeJSON escapes what can't be seen in a JSON text, such as the C1 controls,
// which terminals obey, and those that turn the direction of writing. It is the
// same value then. The line feeds between the values stay.
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

// show writes v as JSON if that is asked for, else what people does; nothing
// with --quiet.
func (a *app) show(v any, people func()) error {
	switch {
	case a.quiet:
	case a.json:
		return a.printJSON(v)
	default:
		people()
	}
	return nil
}

// say tells people what has been done.
func (a *app) say() { a.printf("%s\n", visible(a.done)) }

// printf writes for people.
func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

// none tells people that there is nothing to list; programs see no line.
func (a *app) none(what string) { fmt.Fprintf(a.err, "No %s.\n", what) }

// clock is a time for people, in local time.
func clock(t time.Time) cell {
	if t.IsZero() {
		return cell{}
	}
	return cell{t.Local().Format("2006-01-02 15:04:05"), plain}
}

// plural is "1 lock", "2 locks".
func plural[T ~uint32 | ~int](n T, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
