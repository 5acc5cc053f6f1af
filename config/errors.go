package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Error is one mistake in the file.
type Error struct {
	File   string
	Line   int    // from 1; 0 if no line is to blame
	Column int    // from 1, in bytes
	Key    string // dotted, as in "limits.locks-per-uid"; "" if the mistake concerns no key
	Text   string // what is wrong and what to do, for people
	Err    error  // the error of reading the file, or nil
}

// Unwrap lets errors.Is see fs.ErrNotExist.
func (e *Error) Unwrap() error { return e.Err }

// Error returns one line in a form that editors understand: FILE:LINE:COLUMN: KEY: TEXT.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(readable(e.Key) + ": ")
	}
	b.WriteString(e.Text)
	return b.String()
}

// maxShownKey is how much of a key is shown, in bytes. The longest one with a meaning has fewer.
const maxShownKey = 128

// readable returns a key as it can be shown: shortened, in one line, and without characters that act on a
// terminal or change the order of others. Only a quoted key can have such characters.
func readable(key string) string {
	if len(key) > maxShownKey {
		key = strings.ToValidUTF8(key[:maxShownKey], "") + "..."
	}
	if strings.ContainsFunc(key, unprintable) {
		return strconv.Quote(key)
	}
	return key
}

// unprintable reports whether a character is a control character or mark that changes how a text is shown.
func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// Errors are all the mistakes in one file, in its order, so one edit can correct them all.
type Errors []*Error

// Sort puts the mistakes in the order of the file. Those without a line come first.
func (es Errors) Sort() {
	slices.SortStableFunc(es, func(a, b *Error) int { return a.Line - b.Line })
}

// Error returns one line for each mistake.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As see each mistake.
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}
