package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/user"
	"slices"
	"strconv"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/onlost"
)

// resolved is a configuration with the groups that it names.
type resolved struct {
	config.Config
	authorizer api.GroupAuthorizer
	policies   map[string]api.HelperPolicy // who may name which helper
}

// resolve looks up what the configuration names: the groups, and the programs of the helpers. mistakes
// are reasons not to use it: a group that does not exist, and a program that others could change, since it
// would run as the user of the service. faults are only reported: a program that is missing, because locks
// are worth more than what is done when one is lost.
func resolve(c config.Config) (r resolved, mistakes, faults config.Errors) {
	r = resolved{Config: c, policies: make(map[string]api.HelperPolicy, len(c.OnLost))}
	// Names are looked up now and not at each call: a lookup may ask a directory service, and the
	// service must not wait for one.
	group := func(key, name string) (gid uint32, ok bool) {
		if name == "" {
			return 0, false
		}
		gid, err := lookupGroup(name)
		if err != nil {
			mistakes = append(mistakes, c.Source.Mistake(key, err.Error()))
		}
		return gid, err == nil
	}
	r.authorizer.GID, r.authorizer.HasGroup = group("group", c.Group)
	r.authorizer.Group = c.Group
	for _, name := range slices.Sorted(maps.Keys(c.OnLost)) {
		h, key := c.OnLost[name], "on-lost."+name
		p := api.HelperPolicy{UIDs: h.UIDs}
		p.GID, p.HasGroup = group(key+".group", h.Group)
		r.policies[name] = p
		if len(h.Command) == 0 {
			continue // a mistake that is known
		}
		unsafe, why := config.Program(h.Command[0])
		switch {
		case why == nil:
		case unsafe:
			mistakes = append(mistakes, c.Source.Mistake(key+".command", why.Error()))
		default:
			faults = append(faults, c.Source.Mistake(key+".command", why.Error()))
		}
	}
	mistakes.Sort()
	return r, mistakes, faults
}

// allMistakes adds what resolve finds wrong with a configuration to err, the mistakes that were found
// when it was read, if any. Any other error stands alone: then nothing was read.
func allMistakes(err error, more ...config.Errors) error {
	all, read := errors.AsType[config.Errors](err)
	if err != nil && !read {
		return err
	}
	for _, es := range more {
		all = append(all, es...)
	}
	if len(all) == 0 {
		return nil
	}
	all.Sort()
	return all
}

// lookupGroup finds the number of a group.
func lookupGroup(name string) (uint32, error) {
	g, err := user.LookupGroup(name)
	var unknown user.UnknownGroupError
	if errors.As(err, &unknown) {
		return 0, fmt.Errorf("there is no group %s; make it with groupadd --system %s, or leave the key out", name,
			name)
	}
	if err != nil {
		return 0, fmt.Errorf("the group %s can't be looked up: %w", name, err)
	}
	gid, err := strconv.ParseUint(g.Gid, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("the group %s has no number: %w", name, err)
	}
	return uint32(gid), nil
}

// tellFaults logs which helpers can't be run at present.
func tellFaults(log *slog.Logger, faults config.Errors) {
	for _, f := range faults {
		log.Error(msgHelperUnusable.String(), "err", f)
	}
}

// commands returns the helpers for their runner.
func commands(c map[string]config.OnLost) map[string]onlost.Helper {
	helpers := make(map[string]onlost.Helper, len(c))
	for name, h := range c {
		helpers[name] = onlost.Helper{Command: h.Command, Timeout: h.Timeout}
	}
	return helpers
}
