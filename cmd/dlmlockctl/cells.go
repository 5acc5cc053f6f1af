package main

import (
	"unicode"

	"golang.org/x/text/width"
)

// cellsOf is how many cells of a terminal a text takes. The text is visible: it has no
// controls.
func cellsOf(s string) int {
	n := 0
	for _, r := range s {
		n += runeCells(r)
	}
	return n
}

// runeCells follows wcwidth(3) of the C library, which terminals agree with: two cells
// for the wide characters of East Asia and for emoji, and none for marks that combine
// with the character before them. What Unicode leaves ambiguous takes one. Of all that
// glibc 2.36 knows, the hexagrams and eight circled numbers alone are wider there.
func runeCells(r rune) int {
	switch {
	case r < unicode.MaxLatin1:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me), isMedialJamo(r):
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// isMedialJamo reports whether r is a vowel or a final consonant of Hangul, which
// joins the syllable that the wide consonant before it has begun.
func isMedialJamo(r rune) bool { return r >= 0x1160 && r <= 0x11ff || r >= 0xd7b0 && r <= 0xd7ff }

// shortened returns a text that takes at most this many cells. If it is longer, its
// last character is an ellipsis. A wide character of which only half fits is left out.
func shortened(s string, most int) string {
	if cellsOf(s) <= most {
		return s
	}
	n := 0
	for i, r := range s {
		if n += runeCells(r); n > max(most-1, 0) {
			return s[:i] + "…"
		}
	}
	return s
}
