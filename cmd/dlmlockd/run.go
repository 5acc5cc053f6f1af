package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/dlm"
)

// run is the whole program except for the process around it. It returns the exit code; the service
// ends in order when ctx ends.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := readOptions(args, getenv)
	if o.check {
		err = check(o, err)
	}
	switch {
	case err != nil:
		return complain(stderr, err)
	case o.showHelp:
		return show(usage, stdout, stderr)
	case o.showVersion:
		return show(fmt.Sprintf("dlmlockd %s\n", thisBuild()), stdout, stderr)
	case o.check:
		return show("dlmlockd: the configuration is good\n", stdout, stderr)
	}
	if o.relay { // it reads no configuration, so that a mistake in it does not cut off this node's peers
		return runRelay(ctx, stderr)
	}
	control := newLogControl(stderr, o.LogLevel)
	defer control.outlet.flush()
	log := control.logger()
	log.Info("starting", "version", thisBuild().Version, "commit", thisBuild().Commit, "options", o)
	work := func() error {
		return serve(ctx, o, func() (options, error) { return readOptions(args, getenv) }, control, log)
	}
	if o.leave {
		work = func() error { return leave(ctx, o, log) }
	}
	if err := work(); err != nil {
		log.Error("ended", "err", err)
		return exitCode(err)
	}
	log.Info("ended")
	return exitOK
}

// runRelay is run for dlmlockd --relay-cpg.
func runRelay(ctx context.Context, stderr io.Writer) int {
	control := newLogControl(stderr, slog.LevelInfo)
	defer control.outlet.flush()
	log := control.logger()
	if err := relayCPG(ctx, log); err != nil {
		log.Error("ended", "err", err)
		return exitFailed
	}
	return exitOK
}

// show writes what was asked for.
func show(text string, stdout, stderr io.Writer) int {
	if _, err := io.WriteString(stdout, text); err != nil {
		fmt.Fprintf(stderr, "dlmlockd: the output could not be written: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// check looks for all that keeps the service from running with this configuration, as far as that can be
// told without running it. err is what reading it has found.
func check(o options, err error) error {
	_, mistakes, faults := resolve(o.Config)
	return allMistakes(err, mistakes, faults)
}

// complain reports what is wrong with the command line or the file.
func complain(stderr io.Writer, err error) int {
	var u *usageError
	if errors.As(err, &u) {
		fmt.Fprintf(stderr, "dlmlockd: %v; see dlmlockd --help\n", err)
		return exitUsage
	}
	for line := range strings.SplitSeq(err.Error(), "\n") {
		fmt.Fprintf(stderr, "dlmlockd: %s\n", line)
	}
	return exitConfig
}

// exitCode distinguishes a failure that another start may cure from one that it won't: the unit has
// the latter in RestartPreventExitStatus=.
func exitCode(err error) int {
	var bad *config.Error
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, dlm.ErrUnsupported):
		return exitNoEngine
	case errors.As(err, &bad):
		return exitConfig
	}
	return exitFailed
}
