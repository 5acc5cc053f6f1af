package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
	"html/template"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// site is a run of the program.
type site struct {
	source, dir string
	version     string
	contents    []section
	queue       []string        // files of the repository that are still to be made into pages
	seen        map[string]bool // those and the ones before them
	pages       int
}

// build makes the site in a directory, and returns how many pages it has.
func build(source, dir, version string, contents []section) (int, error) {
	s := &site{source: source, dir: dir, version: version, contents: contents, seen: map[string]bool{}}
	for _, part := range contents {
		for _, e := range part.Entries {
			s.want(e.File)
		}
	}
	for len(s.queue) > 0 {
		file := s.queue[0]
		s.queue = s.queue[1:]
		if err := s.make(file); err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
	}
	return s.pages, s.write("style.css", style)
}

// want has a file or directory of the repository be on the site.
func (s *site) want(file string) {
	if !s.seen[file] {
		s.seen[file] = true
		s.queue = append(s.queue, file)
	}
}

// place returns where a file of the repository is on the site.
func (s *site) place(file string) string {
	info, err := os.Stat(filepath.Join(s.source, file))
	switch {
	case err == nil && info.IsDir():
		return path.Join(file, "index.html")
	case path.Base(file) == "README.md":
		return path.Join(path.Dir(file), "index.html")
	case path.Ext(file) == ".md":
		return strings.TrimSuffix(file, ".md") + ".html"
	case isPicture(file):
		return file
	}
	return file + ".html"
}

func isPicture(file string) bool {
	ext := path.Ext(file)
	return ext == ".svg" || ext == ".png"
}

// isManual reports whether a file is a manual page, of which one is generated.
func isManual(file string) bool {
	return path.Dir(file) == "man" && strings.Contains("158", file[len(file)-1:])
}

// make puts one file or directory on the site.
func (s *site) make(file string) error {
	if isManual(file) {
		return s.manual(file)
	}
	name := filepath.Join(s.source, file)
	if info, err := os.Stat(name); err != nil {
		return err
	} else if info.IsDir() {
		return s.listing(file)
	}
	text, err := os.ReadFile(name)
	switch {
	case err != nil:
		return err
	case path.Ext(file) == ".md":
		title, body, err := s.markdown(file, text)
		if err != nil {
			return err
		}
		return s.page(file, title, body)
	case isPicture(file):
		return s.write(file, text)
	case !utf8.Valid(text):
		return fmt.Errorf("it is not a text")
	}
	plain := html.EscapeString(strings.ReplaceAll(string(text), "\f", ""))
	return s.page(file, file, "<h1>"+html.EscapeString(file)+"</h1>\n<pre>"+plain+"</pre>\n")
}

// listing is the page of a directory.
func (s *site) listing(dir string) error {
	files, err := os.ReadDir(filepath.Join(s.source, dir))
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<h1>%s</h1>\n<ul>\n", html.EscapeString(dir))
	for _, f := range files {
		file := path.Join(dir, f.Name())
		s.want(file)
		to := s.relative(s.place(dir), s.place(file))
		fmt.Fprintf(&b, "<li><a href=%q>%s</a></li>\n", to, html.EscapeString(s.title(file)))
	}
	return s.page(dir, dir, b.String()+"</ul>\n")
}

// title is the heading of a document, and the name of any other file.
func (s *site) title(file string) string {
	if path.Ext(file) == ".md" {
		text, _ := os.ReadFile(filepath.Join(s.source, file)) // whoever makes the page notices
		if first, _, _ := strings.Cut(string(text), "\n"); strings.HasPrefix(first, "# ") {
			return strings.ReplaceAll(first[2:], "`", "")
		}
	}
	return path.Base(file)
}

// relative returns the link from one place on the site to another.
func (s *site) relative(from, to string) string {
	link, err := filepath.Rel(path.Dir(from), to)
	if err != nil {
		return to // both are relative, so this does not happen
	}
	return link
}

//go:embed layout.html
var layoutText string

//go:embed style.css
var style []byte

var layout = template.Must(template.New("layout").Parse(layoutText))

// page writes the page of a file, in the layout that all have.
func (s *site) page(file, title string, body string) error {
	type link struct {
		Href, Title string
		Here        bool
	}
	type part struct {
		Title string
		Links []link
	}
	at := s.place(file)
	var parts []part
	for _, section := range s.contents {
		p := part{Title: section.Title}
		for _, e := range section.Entries {
			p.Links = append(p.Links, link{s.relative(at, s.place(e.File)), e.Title, e.File == file})
		}
		parts = append(parts, p)
	}
	var b bytes.Buffer
	err := layout.Execute(&b, map[string]any{"Title": title, "Version": s.version, "Body": template.HTML(body),
		"Parts": parts, "Home": s.relative(at, "index.html"), "Style": s.relative(at, "style.css")})
	if err != nil {
		return err
	}
	s.pages++
	return s.write(at, b.Bytes())
}

func (s *site) write(place string, text []byte) error {
	name := filepath.Join(s.dir, place)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}
