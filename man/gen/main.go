// Command gen writes org.example.DlmLock(5) to standard output.
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
	page, err := man.Interface()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
	if _, err := os.Stdout.WriteString(page); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}
