package main

import (
	"context"
	"os"
)

// Set by the linker (see the Makefile).
var version, commit, date string

func main() {
	if os.Args[0] == shimName {
		shim()
	}
	os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
