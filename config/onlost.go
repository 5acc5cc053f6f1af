package config

import (
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The bounds of on-lost.NAME.timeout. A helper that runs for longer keeps others from running, since
// few run at once, and what a lost lock protected is in danger meanwhile.
const (
	minOnLostTimeout = time.Second
	maxOnLostTimeout = 10 * time.Minute
)

// maxHelperName is the maximum length of a helper's name, in bytes.
const maxHelperName = 64

// onLost checks the tables [on-lost.NAME].
func (v *validator) onLost(tables map[string]onLost) map[string]OnLost {
	if len(tables) == 0 {
		return nil
	}
	all := make(map[string]OnLost, len(tables))
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		t, key := tables[name], "on-lost."+name
		if name == "" || len(name) > maxHelperName ||
			strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			v.fail(key+".command", "%q can't name a helper: 1 to %d lower case letters, digits, - and _", name,
				maxHelperName)
			continue
		}
		h := OnLost{Command: v.command(key+".command", t.Command), Timeout: DefaultOnLostTimeout,
			UIDs: v.uids(key+".uids", t.UIDs)}
		if s, ok := v.text(key+".timeout", t.Timeout); ok {
			h.Timeout = v.duration(key+".timeout", s, minOnLostTimeout, maxOnLostTimeout)
		}
		h.Group = v.group(key+".group", t.Group, "leave the key out to let only root and uids name the helper")
		all[name] = h
	}
	return all
}

// command checks a program and its arguments. The program needs an absolute path, so that no search
// path decides what runs as root.
func (v *validator) command(key string, value any) []string {
	const advice = `must be a list of strings, like ["/usr/libexec/dlmlockd/libvirt-lost"]`
	list, ok := value.([]any)
	if !ok || len(list) == 0 {
		v.fail(key, advice)
		return nil
	}
	words := make([]string, len(list))
	for i, item := range list {
		if words[i], ok = item.(string); !ok || strings.ContainsRune(words[i], 0) {
			v.fail(key, advice)
			return nil
		}
	}
	if !filepath.IsAbs(words[0]) {
		v.fail(key, "%q must be the absolute path of a program", words[0])
		return nil
	}
	return words
}

// uids checks a list of user ids. The largest number is none: setresuid(2) takes it for "no change".
func (v *validator) uids(key string, value any) []uint32 {
	if value == nil {
		return nil
	}
	list, ok := value.([]any)
	if !ok {
		v.fail(key, "must be a list of user ids, like [107]")
		return nil
	}
	ids := make([]uint32, 0, len(list))
	for i, item := range list {
		n, ok := item.(int64)
		if !ok || n < 0 || n >= math.MaxUint32 {
			v.fail(fmt.Sprintf("%s[%d]", key, i), "must be the number of a user")
			continue
		}
		ids = append(ids, uint32(n))
	}
	return ids
}
