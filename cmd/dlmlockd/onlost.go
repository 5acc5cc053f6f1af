package main

import (
	"log/slog"
	"maps"
	"slices"

	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/onlost"
)

// helperPolicies says who may name which helper.
func helperPolicies(c map[string]config.OnLost) (map[string]api.HelperPolicy, error) {
	policies := make(map[string]api.HelperPolicy, len(c))
	for name, h := range c {
		p := api.HelperPolicy{UIDs: h.UIDs}
		if h.Group != "" {
			gid, err := lookupGroup("on-lost."+name+".group", h.Group)
			if err != nil {
				return nil, err
			}
			p.GID, p.HasGroup = gid, true
		}
		policies[name] = p
	}
	return policies, nil
}

// checkHelpers looks whether the programs of the helpers can be run. One that
// others could change is an error, since it would run as the user of the service.
// One that is missing is a fault that is told: locks are worth more than what is
// done when one is lost.
func checkHelpers(c map[string]config.OnLost) (faults []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(c)) {
		unsafe, why := config.Program(c[name].Command[0])
		if why == nil {
			continue
		}
		key := "on-lost." + name + ".command"
		if unsafe {
			return nil, &config.Error{File: "configuration", Key: key, Text: why.Error(), Err: why}
		}
		faults = append(faults, key+": "+why.Error())
	}
	return faults, nil
}

// tellFaults says which helpers can't be run as things are.
func tellFaults(log *slog.Logger, faults []string) {
	for _, f := range faults {
		log.Error("a helper for lost locks can't be run; nothing will be done for the locks that name it", "err", f)
	}
}

// commands says what each helper is.
func commands(c map[string]config.OnLost) map[string]onlost.Helper {
	helpers := make(map[string]onlost.Helper, len(c))
	for name, h := range c {
		helpers[name] = onlost.Helper{Command: h.Command, Timeout: h.Timeout}
	}
	return helpers
}
