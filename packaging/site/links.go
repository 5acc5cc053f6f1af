package main

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// leaf is a page of the site as its links see it.
type leaf struct {
	ids   map[string]bool
	links []string // to other places on the site, or to its own ids
}

// check looks at each page of a site: it is well-formed, loads nothing from elsewhere, and each of its links leads to
// a file of the site, and to an id there.
func check(dir string) error {
	pages := map[string]*leaf{}
	var wrong []error
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || path.Ext(name) != ".html" {
			return err
		}
		text, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer text.Close()
		if pages[name], err = read(text); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", name, err))
		}
		return nil
	})
	for name, p := range pages {
		for _, link := range p.links {
			file, id, hasID := strings.Cut(link, "#")
			to := name
			if file != "" {
				to = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join(dir, to)); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: a link leads to %s, which is not on the site", name, link))
			} else if hasID && (pages[to] == nil || !pages[to].ids[id]) {
				wrong = append(wrong, fmt.Errorf("%s: a link leads to %s, which has no such heading", name, link))
			}
		}
	}
	return errors.Join(append(wrong, err)...)
}

// read finds the ids and the links of a page.
func read(text io.Reader) (*leaf, error) {
	p := &leaf{ids: map[string]bool{}}
	dec := xml.NewDecoder(text)
	dec.Entity = xml.HTMLEntity
	for {
		token, err := dec.Token()
		if errors.Is(err, io.EOF) {
			return p, nil
		} else if err != nil {
			return p, err
		}
		switch token := token.(type) {
		case xml.Comment:
			return p, fmt.Errorf("a document has HTML in it, which was left out: %s", token)
		case xml.StartElement:
			if err := p.element(token); err != nil {
				return p, err
			}
		}
	}
}

func (p *leaf) element(e xml.StartElement) error {
	if e.Name.Local == "script" {
		return errors.New("it has a script")
	}
	for _, a := range e.Attr {
		switch name := a.Name.Local; {
		case name == "id" && p.ids[a.Value]:
			return fmt.Errorf("the id %s is there twice", a.Value)
		case name == "id":
			p.ids[a.Value] = true
		case name != "href" && name != "src":
		case !strings.Contains(a.Value, ":"):
			p.links = append(p.links, a.Value)
		case e.Name.Local != "a":
			return fmt.Errorf("it loads %s", a.Value)
		}
	}
	return nil
}
