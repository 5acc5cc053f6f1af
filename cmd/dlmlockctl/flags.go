package main

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// named is the value of a flag with the name that the help gives it.
type named struct {
	pflag.Value
	name string
}

// Type implements pflag.Value.
func (n named) Type() string { return n.name }

// showFlags sets how the help and the completion show the flags of all commands.
func showFlags(root *cobra.Command) {
	nameValues(root.PersistentFlags())
	for _, c := range root.Commands() {
		nameValues(c.Flags())
	}
	cobra.AddTemplateFunc("flagUsages", flagUsages)
	root.SetUsageTemplate(strings.NewReplacer(
		".LocalFlags.FlagUsages", "flagUsages .LocalFlags", ".InheritedFlags.FlagUsages", "flagUsages .InheritedFlags",
		// The line for the commands repeats that of the program itself.
		"{{if .HasAvailableSubCommands}}\n  {{.CommandPath}} [command]{{end}}",
		"{{if and .HasParent .HasAvailableSubCommands (not .Runnable)}}\n  {{.CommandPath}} [command]{{end}}",
	).Replace(root.UsageTemplate()))
}

// nameValues takes the names of values, which pflag reads between backquotes, out of the
// descriptions: the completion shows those as they are.
func nameValues(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) {
		if strings.Contains(f.Usage, "`") {
			name, usage := pflag.UnquoteUsage(f)
			f.Usage, f.Value = usage, named{f.Value, name}
		}
	})
}

// flagUsages describes flags as pflag does, except for an optional value: pflag writes
// "--varlink PATH[=DEFAULT]", and a PATH in a word of its own is an argument.
func flagUsages(flags *pflag.FlagSet) string {
	shown := pflag.NewFlagSet("", pflag.ContinueOnError)
	shown.SortFlags = flags.SortFlags
	flags.VisitAll(func(f *pflag.Flag) {
		if name := f.Value.Type(); f.NoOptDefVal != "" && name != "bool" {
			optional := *f
			optional.Name += "[=" + name + "]"
			optional.NoOptDefVal, optional.Value = "", named{f.Value, "bool"} // a bool has no value to show
			f = &optional
		}
		shown.AddFlag(f)
	})
	return shown.FlagUsages()
}
