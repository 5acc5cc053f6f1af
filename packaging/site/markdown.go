package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// The documents are written in GitHub's dialect. HTML in them would be left out; check notices that.
var dialect = goldmark.New(goldmark.WithExtensions(extension.GFM),
	goldmark.WithParserOptions(parser.WithAutoHeadingID()), goldmark.WithRendererOptions(html.WithXHTML()))

// markdown renders a document. Whatever it links to will be on the site.
func (s *site) markdown(file string, source []byte) (title, body string, err error) {
	ids := parser.NewContext(parser.WithIDs(anchors{}))
	doc := dialect.Parser().Parse(text.NewReader(source), parser.WithContext(ids))
	dropComments(doc, source)
	var wrong []error
	err = ast.Walk(doc, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if !entering {
			return ast.WalkContinue, nil
		}
		var to *[]byte
		switch n := n.(type) {
		case *ast.Heading:
			if title == "" {
				title = string(n.Lines().Value(source))
			}
			return ast.WalkContinue, nil
		case *ast.Link:
			to = &n.Destination
		case *ast.Image:
			to = &n.Destination
		default:
			return ast.WalkContinue, nil
		}
		target, err := s.target(file, string(*to))
		*to = []byte(target)
		wrong = append(wrong, err)
		return ast.WalkContinue, nil
	})
	if err = errors.Join(append(wrong, err)...); err != nil {
		return "", "", err
	}
	var b bytes.Buffer
	err = dialect.Renderer().Render(&b, source, doc)
	return strings.ReplaceAll(title, "`", ""), b.String(), err
}

// dropComments removes the comments of a document, which are between its paragraphs.
func dropComments(doc ast.Node, source []byte) {
	for n := doc.FirstChild(); n != nil; {
		next := n.NextSibling()
		if block, ok := n.(*ast.HTMLBlock); ok && bytes.HasPrefix(block.Lines().Value(source), []byte("<!--")) {
			doc.RemoveChild(doc, n)
		}
		n = next
	}
}

// target returns where a link of a document leads to on the site.
func (s *site) target(from, link string) (string, error) {
	file, id, hasID := strings.Cut(link, "#")
	if file == "" || strings.Contains(file, ":") {
		return link, nil
	}
	file = path.Join(path.Dir(from), file)
	if _, err := os.Stat(filepath.Join(s.source, file)); err != nil || strings.HasPrefix(file, "..") {
		return "", fmt.Errorf("a link leads to %s, which does not exist", link)
	}
	s.want(file)
	to := s.relative(s.place(from), s.place(file))
	if hasID {
		to += "#" + id
	}
	return to, nil
}

// anchors are the ids of headings, as GitHub makes them: that is what links in the documents name.
type anchors map[string]bool

// Generate implements parser.IDs.
func (a anchors) Generate(heading []byte, _ ast.NodeKind) []byte {
	id := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, string(util.TrimLeftSpace(util.TrimRightSpace(heading))))
	unique := id
	for i := 1; a[unique]; i++ {
		unique = fmt.Sprintf("%s-%d", id, i)
	}
	a.Put([]byte(unique))
	return []byte(unique)
}

// Put implements parser.IDs.
func (a anchors) Put(id []byte) { a[string(id)] = true }
