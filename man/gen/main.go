// Command gen writes org.example.DlmLock(5), made from the interface
// files that it is given, to standard output.
//
// It owns nothing: the page is made by package man.
//
// Concurrency: none.
package main

import (
	"fmt"
	"os"

	"github.com/dlmlock/dlmlockd/man"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(names []string) error {
	files := map[string]string{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files[name] = string(text)
	}
	page, err := man.Interface(files)
	if err != nil {
		return err
	}
	_, err = os.Stdout.WriteString(page)
	return err
}
