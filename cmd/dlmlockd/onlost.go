package main

import (
	"github.com/dlmlock/dlmlockd/config"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/onlost"
)

// helperPolicies says who may name which helper.
func helperPolicies(c map[string]config.OnLost) (map[string]lockd.HelperPolicy, error) {
	policies := make(map[string]lockd.HelperPolicy, len(c))
	for name, h := range c {
		p := lockd.HelperPolicy{UIDs: h.UIDs}
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

// commands says what each helper is.
func commands(c map[string]config.OnLost) map[string]onlost.Helper {
	helpers := make(map[string]onlost.Helper, len(c))
	for name, h := range c {
		helpers[name] = onlost.Helper{Command: h.Command, Timeout: h.Timeout}
	}
	return helpers
}
