package main

import (
	"context"
	"os"
)

// version is set by the linker (see the Makefile).
var version = "unknown"

func main() {
	if os.Args[0] == shimName {
		shim()
	}
	os.Exit(Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
