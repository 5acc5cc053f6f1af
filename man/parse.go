package man

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// iface is an interface of ours in the introspection XML.
type iface struct {
	name       string
	about      []string // paragraphs on the file, before its node
	methods    []*member
	signals    []*member
	properties []*member
}

// member is a method, signal or property with its comment.
type member struct {
	name string
	args []arg // of a property: one without a name
	emit string
	doc
}

type arg struct{ name, typ, direction string }

// doc is what a comment says.
type doc struct {
	args    map[string]string // @name: text
	text    []string          // paragraphs
	list    string            // the heading of entries: Options or Details
	entries []entry
	errors  string
}

// entry is "- name (type): text".
type entry struct{ name, typ, text string }

// parse reads the interfaces of ours. Each member has a comment right before
// it, of the form that data/org.example.DlmLock.xml uses throughout.
func parse(text string) ([]*iface, error) {
	d := xml.NewDecoder(strings.NewReader(text))
	var p parser
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return p.all, nil
		}
		if err != nil {
			return nil, err
		}
		switch tok := tok.(type) {
		case xml.Comment:
			p.comment = string(tok)
		case xml.StartElement:
			if err := p.element(tok.Name.Local, attributes(tok)); err != nil {
				return nil, err
			}
		}
	}
}

// parser is how far parse has got.
type parser struct {
	all     []*iface
	in      *iface   // nil: not in an interface of ours
	at      *member  // the last one of in
	comment string   // the last one that no member has taken
	about   []string // the comment before the first node
}

// element takes the beginning of an element.
func (p *parser) element(name string, attrs map[string]string) (err error) {
	switch {
	case name == "node":
		if p.all == nil {
			p.about, p.comment = paragraphs(p.comment), ""
		}
		p.in = nil
	case name == "interface":
		p.in = nil
		if strings.HasPrefix(attrs["name"], "org.example.DlmLock") {
			p.in = &iface{name: attrs["name"], about: p.about}
			p.all = append(p.all, p.in)
		}
	case p.in == nil:
	case name == "arg":
		p.at.args = append(p.at.args, arg{attrs["name"], attrs["type"], attrs["direction"]})
	case name == "annotation":
		if attrs["name"] == "org.freedesktop.DBus.Property.EmitsChangedSignal" {
			p.at.emit = attrs["value"]
		}
	default:
		p.at = &member{name: attrs["name"]}
		if p.at.doc, err = parseDoc(p.at.name, p.comment); err != nil {
			return err
		}
		p.comment = ""
		p.in.add(name, p.at, attrs["type"])
	}
	return nil
}

func attributes(e xml.StartElement) map[string]string {
	m := map[string]string{}
	for _, a := range e.Attr {
		m[a.Name.Local] = a.Value
	}
	return m
}

func (i *iface) add(kind string, m *member, typ string) {
	switch kind {
	case "method":
		i.methods = append(i.methods, m)
	case "signal":
		i.signals = append(i.signals, m)
	case "property":
		m.args = []arg{{typ: typ}}
		i.properties = append(i.properties, m)
	}
}

// parseDoc reads a comment.
func parseDoc(name, comment string) (doc, error) {
	d := doc{args: map[string]string{}}
	first, ok := strings.CutPrefix(strings.TrimSpace(comment), name+":")
	if !ok {
		return d, fmt.Errorf("%s has no comment that begins with its name", name)
	}
	for _, block := range paragraphs(first) {
		if err := d.add(block); err != nil {
			return d, fmt.Errorf("%s: %w", name, err)
		}
	}
	return d, nil
}

// paragraphs splits a text at empty lines, and before each line that begins
// with a mark, and joins the lines of each.
func paragraphs(text string) []string {
	var out []string
	fresh := true
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "":
			fresh = true
		case fresh || strings.HasPrefix(line, "@") || strings.HasPrefix(line, "- ") ||
			strings.HasPrefix(line, "Errors:"):
			out = append(out, line)
			fresh = false
		default:
			out[len(out)-1] += " " + line
		}
	}
	return out
}

func (d *doc) add(block string) error {
	switch {
	case strings.HasPrefix(block, "@"):
		name, text, ok := strings.Cut(block[1:], ": ")
		if !ok {
			return fmt.Errorf("%q is not of the form @argument: text", block)
		}
		d.args[name] = strings.TrimSuffix(text, " (see below)")
	case strings.HasPrefix(block, "- "):
		head, text, ok := strings.Cut(block[2:], "): ")
		name, typ, ok2 := strings.Cut(head, " (")
		if !ok || !ok2 || d.list == "" {
			return fmt.Errorf("%q is not of the form \"- name (type): text\" below a heading", block)
		}
		d.entries = append(d.entries, entry{name, typ, text})
	case strings.HasPrefix(block, "Errors: "):
		d.errors = strings.TrimPrefix(block, "Errors: ")
	case strings.HasSuffix(block, ":") && !strings.Contains(block, " "):
		d.list = strings.TrimSuffix(block, ":")
	default:
		d.text = append(d.text, block)
	}
	return nil
}
