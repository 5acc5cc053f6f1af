// Command site makes the documentation site: a page of HTML for each document and each manual page, and whatever they
// link to. It has no script, loads nothing from anywhere else, and can be read from a directory.
//
// It owns the pages' order and looks, and the check of the links between them. It knows neither the packages nor what
// the documents say. It has one goroutine.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	source := flag.String("source", ".", "the repository")
	version := flag.String("version", "", "which version it is about")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: site [-source DIRECTORY] [-version VERSION] DIRECTORY")
		os.Exit(2)
	}
	dir := flag.Arg(0)
	n, err := build(*source, dir, *version, contents)
	if err == nil {
		err = check(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "site:", err)
		os.Exit(1)
	}
	fmt.Printf("%d pages; begin with %s/index.html\n", n, dir)
}
