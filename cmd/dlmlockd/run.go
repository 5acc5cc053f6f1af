package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/dlm"
)

// run is the whole program but for the process around it. It returns the exit
// code; the end of ctx ends the service in order.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := readOptions(args, getenv)
	switch {
	case err != nil:
		return complain(stderr, err)
	case o.showHelp:
		fmt.Fprint(stdout, usage)
		return exitOK
	case o.showVersion:
		fmt.Fprintf(stdout, "dlmlockd %s\n", thisBuild())
		return exitOK
	}
	control := newLogControl(stderr, o.LogLevel)
	log := control.logger()
	stopReload := onHangup(func() { reload(args, getenv, &control.level, log) })
	defer stopReload()
	log.Info("starting", "version", thisBuild().Version, "commit", thisBuild().Commit, "options", o)
	if err := serve(ctx, o, control, log); err != nil {
		log.Error("ended", "err", err)
		return exitCode(err)
	}
	log.Info("ended")
	return exitOK
}

// complain says what is wrong with the command line or the file.
func complain(stderr io.Writer, err error) int {
	var u *usageError
	if errors.As(err, &u) {
		fmt.Fprintf(stderr, "dlmlockd: %v; see dlmlockd --help\n", err)
		return exitUsage
	}
	fmt.Fprintf(stderr, "dlmlockd: %v\n", err)
	return exitConfig
}

// exitCode tells a failure that another start may cure from one that it
// doesn't.
func exitCode(err error) int {
	var bad *config.Error
	switch {
	case errors.Is(err, dlm.ErrUnsupported):
		return exitNoEngine
	case errors.As(err, &bad):
		return exitConfig
	}
	return exitFailed
}

// onHangup calls f for each SIGHUP until stop is called.
func onHangup(f func()) (stop func()) {
	c := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(c, unix.SIGHUP)
	go func() {
		defer close(done)
		for range c {
			f()
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
		<-done
	}
}

// reload reads the configuration again and takes over what can change while
// locks are held: the log level.
func reload(args []string, getenv func(string) string, level *slog.LevelVar, log *slog.Logger) {
	o, err := readOptions(args, getenv)
	if err != nil {
		log.Error("the configuration was not read again", "err", err)
		return
	}
	level.Set(o.LogLevel)
	log.Info("log level read again; everything else takes effect when the service is restarted, which loses no lock", "level", o.LogLevel)
}
