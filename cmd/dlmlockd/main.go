package main

import (
	"context"
	"math"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/buildinfo"
)

// Set by the linker (see the Makefile).
var version, commit, date string

// thisBuild is which build of the program runs.
var thisBuild = sync.OnceValue(func() buildinfo.Build { return buildinfo.Read(version, commit, date) })

func main() {
	// Aborted by the watchdog, or by a panic, the process ends by a signal, not
	// with the runtime's exit code 2: after that one the unit does not restart it.
	debug.SetTraceback("crash")
	// What somebody had open when the service was started is no helper's.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	// The first of these signals ends the service in order, which keeps every
	// persistent lock; the second one ends it at once, which keeps them too.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}
