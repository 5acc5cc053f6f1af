package main

import (
	"fmt"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/dlmlock/dlmlockd/man"
)

// interfacePage is the manual page that is made from the interfaces.
const interfacePage = "man/org.example.DlmLock.5"

// manual makes the page of a manual page: what groff writes to a terminal, with its bold and underlined letters.
func (s *site) manual(file string) error {
	text, err := s.manualText(file)
	if err != nil {
		return err
	}
	groff := exec.Command("groff", "-mandoc", "-Tutf8", "-P-c", "-rLL=78n", "-ww")
	groff.Stdin = strings.NewReader(".hla none\n" + text) // words stay whole
	groff.Stderr = os.Stderr
	out, err := groff.Output()
	if err != nil {
		return fmt.Errorf("groff (Debian's package groff-base): %w", err)
	}
	name := filepath.Base(file)
	dot := strings.LastIndexByte(name, '.')
	title := fmt.Sprintf("%s(%s)", name[:dot], name[dot+1:])
	_, body, _ := strings.Cut(string(out), "\n") // without the line above the first section
	return s.page(file, title, "<h1>"+title+"</h1>\n"+s.references(file, styled(body)))
}

func (s *site) manualText(file string) (string, error) {
	if file != interfacePage {
		text, err := os.ReadFile(filepath.Join(s.source, file))
		return string(text), err
	}
	names, err := filepath.Glob(filepath.Join(s.source, "data/org.example.DlmLock*.xml"))
	if err != nil {
		return "", err
	}
	files := map[string]string{}
	for _, name := range append(names, filepath.Join(s.source, "data/org.example.DlmLock.varlink")) {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		files[name] = string(text)
	}
	return man.Interface(files)
}

var (
	// A line of a manual page that begins a section is bold, and not indented.
	manualSection = regexp.MustCompile(`(?m)^<b>([A-Z].*)</b>$`)
	betweenWords  = regexp.MustCompile(`</b> <b>`)
	notInAnID     = regexp.MustCompile(`[^A-Za-z0-9]+`)
	reference     = regexp.MustCompile(`(<b>)?([A-Za-z][A-Za-z.]*)(</b>)?\(([1-8])\)`)
)

// styled makes HTML of what a terminal would print: a letter, a backspace and the same letter are bold, and an
// underscore, a backspace and a letter are underlined.
func styled(text string) string {
	var b strings.Builder
	open := ""
	letters := []rune(text)
	for i := 0; i < len(letters); i++ {
		letter, tag := letters[i], ""
		for ; i+2 < len(letters) && letters[i+1] == '\b'; i += 2 {
			if tag = "b"; letter == '_' && letters[i+2] != '_' {
				tag = "i"
			}
			letter = letters[i+2]
		}
		if tag != open && open != "" {
			b.WriteString("</" + open + ">")
		}
		if tag != open && tag != "" {
			b.WriteString("<" + tag + ">")
		}
		open = tag
		b.WriteString(html.EscapeString(string(letter)))
	}
	return inSections(b.String())
}

// inSections makes headings of the lines that begin the sections.
func inSections(text string) string {
	var b strings.Builder
	begin := 0
	part := func(end int) {
		if body := strings.Trim(text[begin:end], "\n"); body != "" {
			b.WriteString("<pre class=\"manual\">" + body + "</pre>\n")
		}
	}
	for _, at := range manualSection.FindAllStringSubmatchIndex(text, -1) {
		part(at[0])
		name := betweenWords.ReplaceAllString(text[at[2]:at[3]], " ")
		fmt.Fprintf(&b, "<h2 id=%q>%s</h2>\n", notInAnID.ReplaceAllString(name, "-"), name)
		begin = at[1]
	}
	part(len(text))
	return b.String()
}

// references makes links of the names of the other manual pages.
func (s *site) references(file, body string) string {
	return reference.ReplaceAllStringFunc(body, func(name string) string {
		m := reference.FindStringSubmatch(name)
		other := "man/" + m[2] + "." + m[4]
		if !s.seen[other] || other == file {
			return name
		}
		return fmt.Sprintf("<a href=%q>%s</a>", s.relative(s.place(file), s.place(other)), name)
	})
}
