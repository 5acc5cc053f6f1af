package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// usageError is a command line that can't be carried out.
type usageError struct {
	text string
	// guess is what was probably meant, as it should be typed; "" if nothing is close.
	guess string
}

func (e *usageError) Error() string { return e.text }

// wrongUsage makes the error for a command line from a format.
func wrongUsage(format string, args ...any) *usageError {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// badCommandLine makes a usageError of what the parser of the command line
// returned. cmd is the command whose arguments it parsed.
func badCommandLine(cmd *cobra.Command, err error) *usageError {
	var own *usageError
	var value *pflag.InvalidValueError
	var number *strconv.NumError
	var unknown *pflag.NotExistError
	switch {
	case errors.As(err, &value) && errors.As(err, &number) && value.GetFlag().Value.Type() == "bool":
		return wrongUsage("--%s=%s: use true or false", value.GetFlag().Name, value.GetValue())
	case errors.As(err, &value) && errors.As(err, &number):
		return wrongUsage("--%s=%s: not a number, or out of range", value.GetFlag().Name, value.GetValue())
	case errors.As(err, &value) && value.Unwrap() != nil:
		return wrongUsage("--%s=%s: %v", value.GetFlag().Name, value.GetValue(), value.Unwrap())
	case errors.As(err, &own):
		return own
	case errors.As(err, &unknown):
		return &usageError{text: err.Error(), guess: guessFlag(cmd, unknown)}
	}
	return &usageError{text: err.Error()}
}

// guessFlag finds the option of cmd that is spelled most like an unknown one.
func guessFlag(cmd *cobra.Command, unknown *pflag.NotExistError) string {
	if unknown.GetSpecifiedShortnames() != "" {
		return "" // any letter is close to any other
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if name := closest(unknown.GetSpecifiedName(), names); name != "" {
		return "--" + name
	}
	return ""
}

// unknownCommand is the error for a command that does not exist.
func unknownCommand(root *cobra.Command, name string) error {
	e := wrongUsage("unknown command %q", name)
	if strings.HasPrefix(name, "/") { // the value of --varlink is optional, so it has to be in the same word
		e.guess = "--varlink=" + name
		return e
	}
	var names []string
	for _, c := range root.Commands() {
		if slices.Contains(c.SuggestFor, name) {
			e.guess = c.CommandPath()
			return e
		}
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if name := closest(strings.ToLower(name), names); name != "" {
		e.guess = root.Name() + " " + name
	}
	return e
}

// pathApart returns the error for --varlink PATH in two words, which is an option without its
// optional value and an argument. line is the whole command line, and args are the arguments of
// the command. A resource, an owner and the command of run may begin with a slash, but are no
// sockets, and of these only an owner can be the first argument.
func pathApart(cmd *cobra.Command, line, args []string) error {
	i := slices.Index(line, "--varlink") + 1
	if i == 0 || i == len(line) || !strings.HasPrefix(line[i], "/") || slices.Contains(line[:i], "--") {
		return nil
	}
	info, err := os.Stat(line[i])
	socket := err == nil && info.Mode().Type() == os.ModeSocket
	if first := len(args) > 0 && args[0] == line[i] && cmd.Name() != "release-owner"; !first && !socket {
		return nil
	}
	return &usageError{text: fmt.Sprintf("--varlink %s: a path has to be in the same word", line[i]),
		guess: "--varlink=" + line[i]}
}

// closest returns the word that word is most probably a misspelling of, or "".
func closest(word string, words []string) string {
	best, least := "", 1+min(2, len(word)/2) // more differences than that are another word
	for _, w := range words {
		d := distance(word, w)
		if len(word) >= 3 && strings.HasPrefix(w, word) {
			d = min(d, 1)
		}
		if d < least {
			best, least = w, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbor to get from a to b (optimal string alignment).
func distance(a, b string) int {
	var before, above []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, above, row = above, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			differs := 1
			if a[i-1] == b[j-1] {
				differs = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+differs)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// needs accepts from least to len(names) arguments; names are those of the
// usage line.
func needs(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return wrongUsage("%s missing", strings.Join(names[len(args):least], " and "))
		case len(args) > len(names) && len(names) == 0:
			return wrongUsage("takes no arguments, but got %q", args[0])
		case len(args) > len(names):
			e := wrongUsage("takes %s; %q is too much", strings.Join(names, " "), args[len(names)])
			if cmd.Flags().Lookup("mode") != nil && isMode(args[len(names)]) {
				e.guess = "--mode=" + args[len(names)]
			}
			return e
		}
		i := slices.Index(args[least:], "") // a variable of a script, more often than a wish for all
		switch {
		case i < 0:
			return nil
		case least > 0:
			return wrongUsage("%s is empty", names[least+i])
		}
		return wrongUsage("%s is empty; leave it out for all", names[i])
	}
}

// selecting are the options that select locks, say what is done to them, or which service does it. An
// empty value of one is a variable of a script that was not set, and nobody means everything by it, or
// the usual service.
var selecting = []string{"bus", "varlink", "owner", "lockspace", "lock", "lockid", "token", "mode", "state",
	"lifetime", "on-lost", "since", "until", "directory"}

// selected refuses options that are given and select nothing.
func selected(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		switch s := f.Value.String(); {
		case err != nil || !slices.Contains(selecting, f.Name):
		case s == "":
			err = wrongUsage("--%s is empty; leave the option out if that is intended", f.Name)
		case s == "0" && (f.Name == "lockid" || f.Name == "token"):
			err = wrongUsage("--%s=0: no lock has this; leave the option out if any lock is meant", f.Name)
		}
	})
	return err
}

// atLeast accepts least arguments or more.
func atLeast(least int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		return needs(least, names...)(cmd, args[:min(len(args), len(names))])
	}
}

// inOneWord lets a command take a lock as LOCKSPACE/RESOURCE, too: a lockspace has no slash in its
// name. After each so many words another lock begins; 0: there is only one.
func inOneWord(c *cobra.Command, each int) *cobra.Command {
	check, run, complete := c.Args, c.RunE, c.ValidArgsFunction
	c.Args = func(cmd *cobra.Command, args []string) error { return check(cmd, splitLocks(args, each)) }
	c.RunE = func(cmd *cobra.Command, args []string) error { return run(cmd, splitLocks(args, each)) }
	c.ValidArgsFunction = func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		return complete(cmd, splitLocks(args, each), word)
	}
	if c.Long == "" {
		c.Long = c.Short + "."
	}
	c.Long += "\n\nLOCKSPACE/RESOURCE in one word means the same as LOCKSPACE RESOURCE."
	return c
}

// splitLocks makes two words of each LOCKSPACE/RESOURCE that stands where a lockspace is expected.
func splitLocks(args []string, each int) []string {
	var words []string
	for _, w := range args {
		space, resource, ok := strings.Cut(w, "/")
		if first := len(words) == 0 || each > 0 && len(words)%each == 0; first && ok && space != "" && resource != "" {
			words = append(words, space, resource)
			continue
		}
		words = append(words, w)
	}
	return words
}
