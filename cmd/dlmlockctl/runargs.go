package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/dlmlock/dlmlockd/client"
)

// runFlags is the command line of run, as it was typed.
type runFlags struct {
	space     string
	names     []string
	mode      string
	shared    bool
	exclusive bool
	now       bool   // don't wait
	line      string // a command line for the shell
}

// add adds the flags that say which lock is meant and how it is taken. Letters
// that flock(1) has mean the same here.
func (r *runFlags) add(f *pflag.FlagSet, o *runOptions) {
	f.SetInterspersed(false) // what follows the command belongs to it
	f.StringVarP(&r.space, "lockspace", "l", "", "the lockspace, in place of LOCKSPACE/RESOURCE")
	f.StringArrayVarP(&r.names, "resource", "r", nil, "the resource; several are taken together or not at all")
	f.StringVarP(&r.mode, "mode", "m", "EX", "the mode")
	f.BoolVarP(&r.shared, "shared", "s", false, "take a shared lock: --mode=PR")
	f.BoolVarP(&r.exclusive, "exclusive", "x", false, "take an exclusive lock: --mode=EX")
	addWait(f, &o.wait)
	f.BoolVarP(&r.now, "nonblock", "n", false, "do not wait, which is the default")
	f.StringVarP(&r.line, "command", "c", "", "a command line for the shell ($SHELL, or sh), in place of COMMAND")
}

// parse reads the arguments of run: LOCKSPACE/RESOURCE, unless --lockspace and
// --resource say it, and the command. As in flock(1), options may also stand
// between the lock and the command.
func (r *runFlags) parse(cmd *cobra.Command, args []string, o *runOptions) error {
	name := ""
	if r.space == "" && len(r.names) == 0 && len(args) > 0 {
		name = args[0]
		// Parsing on stops in front of the command, or behind "--".
		if err := cmd.Flags().Parse(args[1:]); err != nil {
			return badCommandLine(cmd, err)
		}
		args = cmd.Flags().Args()
	}
	if space, rest, ok := strings.Cut(name, "/"); name != "" && (!ok || space == "" || rest == "") {
		return notOneWord(name, args)
	}
	if err := r.lock(cmd, name, o); err != nil {
		return err
	}
	return r.command(cmd, args, o)
}

// notOneWord is the error for a lock that is not LOCKSPACE/RESOURCE. args follow it; the first of
// them may be the resource, but not if it can be the command.
func notOneWord(name string, args []string) error {
	e := wrongUsage("%q is not LOCKSPACE/RESOURCE", name)
	if strings.Contains(name, "/") || len(args) < 2 {
		return e
	}
	if isMode(name) && strings.Contains(args[0], "/") {
		e.guess = "--mode=" + name + " " + args[0]
		return e
	}
	if _, err := exec.LookPath(args[0]); args[1] == "--" || err != nil {
		e.guess = name + "/" + args[0]
	}
	return e
}

// lock finds out which locks are meant.
func (r *runFlags) lock(cmd *cobra.Command, name string, o *runOptions) error {
	if name != "" {
		space, resource, ok := strings.Cut(name, "/")
		if !ok || space == "" || resource == "" {
			return notOneWord(name, nil)
		}
		if r.space != "" || len(r.names) > 0 {
			return wrongUsage("both %s and --lockspace or --resource say which lock is meant", name)
		}
		r.space, r.names = space, []string{resource}
	}
	switch {
	case r.space == "" && len(r.names) == 0:
		return wrongUsage("LOCKSPACE/RESOURCE missing")
	case r.space == "":
		return wrongUsage("--resource needs --lockspace")
	case len(r.names) == 0:
		return wrongUsage("--lockspace needs --resource")
	case r.now && cmd.Flags().Changed("wait") && o.wait.d != 0:
		return wrongUsage("--nonblock and --wait contradict each other")
	}
	mode, err := r.chosenMode(cmd)
	if err != nil {
		return err
	}
	for _, n := range r.names {
		o.want = append(o.want, client.Want{Lockspace: r.space, Resource: n, Mode: mode})
	}
	return nil
}

// chosenMode is the mode that --mode, --shared or --exclusive says.
func (r *runFlags) chosenMode(cmd *cobra.Command) (string, error) {
	said := 0
	for _, flag := range []string{"mode", "shared", "exclusive"} {
		if cmd.Flags().Changed(flag) {
			said++
		}
	}
	switch {
	case said > 1:
		return "", wrongUsage("only one of --mode, --shared and --exclusive can be given")
	case r.shared:
		return "PR", nil
	}
	return r.mode, nil
}

// command finds out what to run.
func (r *runFlags) command(cmd *cobra.Command, args []string, o *runOptions) error {
	switch {
	case cmd.Flags().Changed("command") && len(args) > 0:
		return wrongUsage("both --command and %q say what to run", args[0])
	case cmd.Flags().Changed("command"):
		shell := os.Getenv("SHELL")
		if shell == "" {
			shell = "/bin/sh"
		}
		o.argv = []string{shell, "-c", r.line}
	case len(args) == 0:
		return wrongUsage("COMMAND missing")
	default:
		o.argv = args
	}
	if _, err := exec.LookPath(o.argv[0]); err != nil && len(args) > 1 && isMode(args[0]) {
		e := wrongUsage("there is no command %s", args[0])
		e.guess = "--mode=" + args[0]
		return e
	}
	return nil
}

// complete completes the arguments of run: the lock, and then what the shell
// completes for a command.
func (r *runFlags) complete(a *app) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if r.space != "" || len(r.names) > 0 || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		var words []string
		space, _, ok := strings.Cut(word, "/")
		if !ok {
			for _, s := range lockspaces(a, nil) {
				words = append(words, s+"/")
			}
			return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		}
		for _, n := range resources(a, []string{space}) {
			words = append(words, space+"/"+n)
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// kindOf returns the kind of an error of the service; "" for any other.
func kindOf(err error) client.Kind {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}
