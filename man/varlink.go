package man

import (
	"fmt"
	"strings"
)

// varlinkHere is the line of the frame that the Varlink interface replaces.
const varlinkHere = ".\\\" @VARLINK@\n"

// symbol is a member of a Varlink interface (varlink.org, "Interface Definition"),
// or a field of one.
type symbol struct {
	kind   string // type, method, error; "in" and "out" for the fields of a method, else "field"
	name   string
	typ    string   // of a field; of an enumeration, its values
	text   []string // the comment before it, a paragraph each
	fields []*symbol
}

// parseVarlink reads an interface description in which a member's first line ends in
// "(" or has the whole of it, and each field has a line. about is what is said
// of the interface.
func parseVarlink(text string) (about []string, members []*symbol, err error) {
	var comment []string
	var open *symbol
	direction := "field"
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case line == "":
			comment = nil
		case word == "#" || line == "#":
			comment = append(comment, strings.TrimSpace(rest))
		case word == "interface":
			about, comment = joined(comment), nil
		case open == nil && (word == "type" || word == "method" || word == "error"):
			name, list, _ := strings.Cut(rest, "(")
			s := &symbol{kind: word, name: strings.TrimSpace(name), text: joined(comment)}
			members, comment, direction = append(members, s), nil, "field"
			if word == "method" {
				direction = "in"
			}
			open, direction = s.take(list, direction)
		case open != nil:
			open, direction = open.more(line, direction, joined(comment))
			comment = nil
		default:
			return nil, nil, fmt.Errorf("line %d: %q is not understood", n+1, line)
		}
	}
	return about, members, nil
}

// take reads what follows the first parenthesis of a member on its first line. It
// returns the member if it goes on.
func (s *symbol) take(list, direction string) (open *symbol, next string) {
	if before, out, ok := strings.Cut(list, ") -> ("); ok {
		s.addAll(before, direction)
		list, direction = out, "out"
	}
	inner, whole := strings.CutSuffix(list, ")")
	s.addAll(inner, direction)
	if whole {
		return nil, direction
	}
	return s, direction
}

// more reads a further line of a member.
func (s *symbol) more(line, direction string, comment []string) (open *symbol, next string) {
	switch {
	case strings.HasPrefix(line, ") -> ("):
		return s.take(strings.TrimPrefix(line, ") -> ("), "out")
	case line == ")":
		return nil, direction
	}
	inner, whole := strings.CutSuffix(line, ")")
	n := len(s.fields)
	if s.addAll(inner, direction); len(s.fields) == n+1 {
		s.fields[n].text = comment
	}
	if whole {
		return nil, direction
	}
	return s, direction
}

// addAll adds fields that are on one line.
func (s *symbol) addAll(list, direction string) {
	for _, f := range strings.Split(list, ",") {
		if name, typ, ok := strings.Cut(strings.TrimSpace(f), ": "); ok {
			s.fields = append(s.fields, &symbol{kind: direction, name: name, typ: typ})
		} else if name != "" && s.kind == "type" {
			if s.typ != "" {
				s.typ += ", "
			}
			s.typ += name
		}
	}
}

// joined is the paragraphs of a comment.
func joined(lines []string) []string { return paragraphs(strings.Join(lines, "\n")) }

// writeVarlink writes the section about the Varlink interface.
func writeVarlink(b *strings.Builder, text string) error {
	about, members, err := parseVarlink(text)
	if err != nil {
		return err
	}
	b.WriteString(".Sh VARLINK INTERFACE\n")
	writeParagraphs(b, about)
	for _, m := range members {
		fmt.Fprintf(b, ".Ss %s %s\n", m.kind, m.name)
		writeParagraphs(b, m.text)
		if m.typ != "" {
			fmt.Fprintf(b, ".Pp\nOne of: %s.\n", lit(m.typ))
		}
		for _, list := range []struct{ kind, title string }{{"field", "Fields"}, {"in", "Parameters"}, {"out", "Reply"}} {
			m.writeFields(b, list.kind, list.title)
		}
	}
	return nil
}

func (s *symbol) writeFields(b *strings.Builder, kind, title string) {
	begun := false
	for _, f := range s.fields {
		if f.kind != kind {
			continue
		}
		if !begun {
			fmt.Fprintf(b, ".Pp\n%s:\n.Bl -tag -width Ds -compact\n", title)
			begun = true
		}
		fmt.Fprintf(b, ".It Fa %s Pq %s\n", macroArg(f.name), lit(f.typ))
		for _, p := range f.text {
			sentences(b, p)
		}
	}
	if begun {
		b.WriteString(".El\n")
	}
}
