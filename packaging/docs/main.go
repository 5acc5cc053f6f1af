// Command docs installs the documents of the packages, as the list packaging/documents says, and makes the links
// between them fit: a link to a document that is installed as well leads there, and any other link to a file of the
// repository leads to that file on the project's home page. A link that leads nowhere is an error. It owns what is
// below /usr/share/doc, apart from licences, and knows nothing of package formats. It has one goroutine.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	list := flag.String("list", "packaging/documents", "the list of documents")
	home := flag.String("home", "https://github.com/dlmlock/dlmlockd/blob/HEAD/", "where the other files are")
	changelog := flag.String("changelog", "CHANGELOG.md", "the name that CHANGELOG.md gets later, for links to it")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: docs [-list FILE] [-home URL] [-changelog NAME] DIRECTORY")
		os.Exit(2)
	}
	if err := install(*list, *home, *changelog, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}

// document is a file of the repository and its place below /usr/share/doc, which begins with the name of a package.
type document struct{ from, to string }

func (d document) pkg() string {
	name, _, _ := strings.Cut(d.to, "/")
	return name
}

type documents []document

// install copies the documents of a list to dir.
func install(list, home, changelog, dir string) error {
	docs, err := read(list)
	if err != nil {
		return err
	}
	for _, d := range docs {
		text, err := os.ReadFile(d.from)
		if err != nil {
			return err
		}
		if strings.HasSuffix(d.from, ".md") {
			if text, err = docs.relink(d, text, home, changelog); err != nil {
				return err
			}
		}
		to := filepath.Join(dir, d.to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// read returns the documents of a list.
func read(list string) (documents, error) {
	text, err := os.ReadFile(list)
	if err != nil {
		return nil, err
	}
	var docs documents
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("%s: %q has not two words", list, strings.TrimSpace(line))
		}
		found, err := filepath.Glob(fields[0])
		if err != nil || len(found) == 0 {
			return nil, fmt.Errorf("%s: there is no %s", list, fields[0])
		}
		for _, from := range found {
			if info, err := os.Stat(from); err == nil && info.IsDir() {
				continue
			}
			to := fields[1]
			if strings.HasSuffix(to, "/") {
				to += filepath.Base(from)
			}
			docs = append(docs, document{from, to})
		}
	}
	return docs, nil
}

// place returns where a file is installed, in the package of another document if it is there.
func (docs documents) place(file, pkg string) (to string, installed bool) {
	for _, d := range docs {
		if d.from == file && (!installed || d.pkg() == pkg) {
			to, installed = d.to, true
		}
	}
	return to, installed
}

// Links as Markdown has them, [text](target), and as HTML in it has them.
var link = regexp.MustCompile(`(\]\(|(?:src|srcset|href)=")([^)" \n]+)([)"])`)

// relink returns the text of a document with links that fit its new place.
func (docs documents) relink(d document, text []byte, home, changelog string) ([]byte, error) {
	var wrong []error
	out := link.ReplaceAllStringFunc(string(text), func(found string) string {
		parts := link.FindStringSubmatch(found)
		target, err := docs.target(d, parts[2], home, changelog)
		if err != nil {
			wrong = append(wrong, err)
		}
		return parts[1] + target + parts[3]
	})
	return []byte(out), errors.Join(wrong...)
}

// target returns where a link of a document leads once the document is installed.
func (docs documents) target(d document, link, home, changelog string) (string, error) {
	file, section, hasSection := strings.Cut(link, "#")
	if file == "" || strings.Contains(file, ":") {
		return link, nil
	}
	file = path.Join(path.Dir(d.from), file)
	if _, err := os.Stat(file); err != nil {
		return "", fmt.Errorf("%s: a link leads to %s, which does not exist", d.from, link)
	}
	if hasSection {
		section = "#" + section
	}
	to, installed := docs.place(file, d.pkg())
	if !installed {
		return home + file + section, nil
	}
	if file == "CHANGELOG.md" {
		to = path.Join(path.Dir(to), changelog)
	}
	relative, err := filepath.Rel(path.Dir(d.to), to)
	return relative + section, err
}
