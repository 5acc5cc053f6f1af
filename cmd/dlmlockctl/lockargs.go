package main

import (
	"slices"
	"strings"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
)

// completeLocks checks that args are LOCKSPACE RESOURCE MODE for each lock.
func completeLocks(args []string) error {
	const each = "each lock is LOCKSPACE RESOURCE MODE"
	if e := inOrder("acquire", args); e != nil {
		return e
	}
	n := len(args)
	switch {
	case n == 0:
		return wrongUsage("LOCKSPACE RESOURCE MODE missing")
	case n%3 == 1:
		return wrongUsage("%s; RESOURCE and MODE are missing after %q", each, args[n-1])
	case n%3 == 2 && slices.ContainsFunc(args[n-2:], isMode): // which of the others is missing is not known
		return wrongUsage("%s; %q is only two of these", each, args[n-2]+" "+args[n-1])
	case n%3 == 2:
		e := wrongUsage("%s; MODE is missing after %q", each, args[n-2]+" "+args[n-1])
		e.guess = commandLine("acquire", append(slices.Clone(args), "EX"))
		return e
	}
	return nil
}

// inOrder returns an error with the right order if a mode stands in the place of a lockspace or
// resource, and something that is no mode in the place of a mode. Only then is it a mistake: a
// lockspace or resource may have the name of a mode. If arguments are missing as well, the error
// guesses nothing.
func inOrder(verb string, args []string) error {
	right, misplaced, place := slices.Clone(args), "", ""
	whole := len(args)%3 == 0
	for i := 0; i+1 < len(right); i += 3 {
		lock := right[i:min(i+3, len(right))]
		at := slices.IndexFunc(lock, isMode)
		oneWord := len(lock) == 2 && at == 0 && strings.Contains(lock[1], "/")
		if at < 0 || !oneWord && (len(lock) < 3 || isMode(lock[2])) {
			continue
		}
		misplaced, place, whole = lock[at], []string{"LOCKSPACE", "RESOURCE"}[at], whole || oneWord
		copy(lock[at:], lock[at+1:])
		lock[len(lock)-1] = misplaced
	}
	if misplaced == "" {
		return nil
	}
	e := wrongUsage("the order is LOCKSPACE RESOURCE MODE, but the mode %s stands in the place of %s", misplaced, place)
	if whole {
		e.guess = commandLine(verb, right)
	}
	return e
}

func isMode(s string) bool {
	_, err := dlm.ParseMode(s)
	return err == nil
}

// commandLine writes a command as it is typed in a shell.
func commandLine(verb string, args []string) string {
	words := []string{"dlmlockctl", verb}
	for _, w := range args {
		words = append(words, shellWord(w))
	}
	return strings.Join(words, " ")
}

// wants reads arguments that are LOCKSPACE RESOURCE MODE, one or more times, as completeLocks has
// checked.
func wants(args []string) []client.Want {
	var w []client.Want
	for ; len(args) >= 3; args = args[3:] {
		w = append(w, client.Want{Lockspace: args[0], Resource: args[1], Mode: args[2]})
	}
	return w
}

// namedTwice refuses a resource that is named twice with modes that no call can have together. The
// service finds only that another lock is in the way, which is one of the same call. An owner has
// one lock on a resource; named again in the same mode, it is the same lock.
func namedTwice(want []client.Want, owned bool) error {
	seen := map[[2]string][]dlm.Mode{} // each mode once
	for _, w := range want {
		mode, err := dlm.ParseMode(w.Mode)
		if err != nil {
			return nil // the service names the mistake
		}
		resource := [2]string{w.Lockspace, w.Resource}
		for _, before := range seen[resource] {
			switch {
			case owned && before != mode:
				return wrongUsage("%s/%s is named twice, in %s and in %s; an owner has one lock on a resource, in one mode",
					w.Lockspace, w.Resource, before, mode)
			case !owned && !dlm.Compatible(before, mode):
				return wrongUsage("%s/%s is named twice, in %s and in %s; no call can have both, as they exclude each other",
					w.Lockspace, w.Resource, before, mode)
			}
		}
		if !slices.Contains(seen[resource], mode) {
			seen[resource] = append(seen[resource], mode)
		}
	}
	return nil
}
