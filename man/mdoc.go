package man

import (
	"fmt"
	"strings"
)

// esc makes text that mdoc takes as it is.
func esc(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// lit is esc for what people copy: a hyphen stays a minus.
func lit(s string) string { return strings.ReplaceAll(esc(s), "-", `\-`) }

// macroArg is lit as an argument of a macro: quoted, because a word of two or
// three letters could be a macro itself.
func macroArg(s string) string { return `"\&` + strings.ReplaceAll(lit(s), `"`, `\(dq`) + `"` }

// sentences writes text with each sentence on a line of its own, as mdoc wants.
func sentences(b *strings.Builder, text string) {
	for _, s := range strings.Split(strings.ReplaceAll(text, ". ", ".\n"), "\n") {
		fmt.Fprintf(b, "%s\n", esc(s))
	}
}

// root is the interface that the page is named after. The frame tells about
// it; the others have a section each, with what their file says.
const root = "org.example.DlmLock"

func (i *iface) write(b *strings.Builder) {
	if i.name == root {
		b.WriteString(".Sh METHODS\n")
		i.writeMethods(b)
		b.WriteString(".Sh SIGNALS\n")
		i.writeSignals(b)
		b.WriteString(".Sh PROPERTIES\n")
		i.writeProperties(b)
		return
	}
	fmt.Fprintf(b, ".Sh %s\n", i.name)
	writeParagraphs(b, i.about)
	i.writeMethods(b)
	i.writeSignals(b)
	if len(i.properties) > 0 {
		b.WriteString(".Ss Properties\n")
		i.writeProperties(b)
	}
}

func (i *iface) writeMethods(b *strings.Builder) {
	for _, m := range i.methods {
		m.writeCall(b, "")
	}
}

func (i *iface) writeSignals(b *strings.Builder) {
	for _, m := range i.signals {
		m.writeCall(b, "signal ")
	}
}

func (i *iface) writeProperties(b *strings.Builder) {
	b.WriteString("All of them can only be read.\n.Bl -tag -width Ds\n")
	for _, m := range i.properties {
		m.writeProperty(b)
	}
	b.WriteString(".El\n")
}

func writeParagraphs(b *strings.Builder, text []string) {
	for n, p := range text {
		if n > 0 {
			b.WriteString(".Pp\n")
		}
		sentences(b, p)
	}
}

// writeCall writes a method or a signal.
func (m *member) writeCall(b *strings.Builder, kind string) {
	in, out := m.arguments("in"), m.arguments("out")
	if in == "" && out == "" && len(m.args) > 0 {
		in = m.arguments("")
	}
	line := kind + m.name + "(" + in + ")"
	if out != "" {
		line += ` \(-> ` + strings.ReplaceAll(out, "-", `\-`)
	}
	fmt.Fprintf(b, ".Ss %s\n", line)
	writeParagraphs(b, m.text)
	if len(m.args) > 0 {
		b.WriteString(".Bl -tag -width Ds\n")
		for _, a := range m.args {
			fmt.Fprintf(b, ".It %s Pq %s\n", "Fa "+macroArg(a.name), lit(a.typ))
			sentences(b, m.doc.args[a.name])
		}
		b.WriteString(".El\n")
	}
	if len(m.entries) > 0 {
		fmt.Fprintf(b, ".Pp\n%s:\n.Bl -tag -width Ds -compact\n", m.list)
		for _, e := range m.entries {
			fmt.Fprintf(b, ".It Li %s Pq %s\n", macroArg(e.name), lit(e.typ))
			sentences(b, e.text)
		}
		b.WriteString(".El\n")
	}
	if m.errors != "" {
		b.WriteString(".Pp\nErrors: ")
		sentences(b, m.errors)
	}
}

// arguments is the arguments of a direction with their types.
func (m *member) arguments(direction string) string {
	var list []string
	for _, a := range m.args {
		if a.direction == direction {
			list = append(list, a.typ+" "+a.name)
		}
	}
	return strings.Join(list, ", ")
}

var emits = map[string]string{
	"const": "never changes while the service runs",
	"true":  "changes are signalled with the new value",
	"false": "changes are not signalled",
}

func (m *member) writeProperty(b *strings.Builder) {
	fmt.Fprintf(b, ".It Va %s Pq %s; %s\n", macroArg(m.name), lit(m.args[0].typ), emits[m.emit])
	for _, p := range m.text {
		sentences(b, p)
	}
}
