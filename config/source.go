package config

import "strings"

// Source knows where the values of a Config stand in its file, for mistakes that only the user of the
// Config can find, such as a group that does not exist. It is immutable.
type Source struct {
	file string
	at   map[string]position // by dotted key; key[index] for an element of an array
}

// Mistake returns the error of the value of a key. If the key is missing from the file, the position is
// that of its table. A nil Source, which is that of Default, has no position.
func (s *Source) Mistake(key, text string) *Error {
	if s == nil {
		return &Error{File: "configuration", Key: key, Text: text}
	}
	pos, known := s.at[key]
	for of := key; !known && of != ""; pos, known = s.at[of] {
		of = of[:max(0, strings.LastIndexAny(of, ".["))]
	}
	return &Error{File: s.file, Line: pos.line, Column: pos.column, Key: key, Text: text}
}
