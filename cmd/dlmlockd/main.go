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

// thisBuild returns which build of the program is running.
var thisBuild = sync.OnceValue(func() buildinfo.Build { return buildinfo.Read(version, commit, date) })

func main() {
	// If the watchdog or a panic aborts the process, it ends by a signal and not with the runtime's
	// exit code 2, after which the unit would not restart it.
	debug.SetTraceback("crash")
	// A helper must not inherit files that were open when the service was started.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	// When journald ends, or whatever else reads standard error, the Go runtime would end the program with
	// the next line of the log, also if systemd has had SIGPIPE ignored (os/signal, "SIGPIPE").
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	// The first of these signals ends the service in order, the second one at once. Both keep every
	// persistent lock.
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	context.AfterFunc(ctx, stop) // a second signal has the kernel's own effect again
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}
