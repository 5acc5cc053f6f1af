package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// version is set by the linker (see the Makefile).
var version = "unknown"

func main() {
	// The first of these signals ends the service in order, which keeps every
	// persistent lock; the second one ends it at once, which keeps them too.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}
