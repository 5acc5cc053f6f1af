package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
)

// dbusNames are the options' names on the bus.
var dbusNames = map[string]string{"processId": "pid", "onLost": "on-lost", "onLostData": "on-lost-data",
	"waitUSec": "wait-usec", "lockId": "lockid", "userId": "uid", "nodeId": "node", "processStartTicks": "start-time"}

// dbusOptions makes options of the fields that are no arguments.
func dbusOptions(args fields, but ...string) map_ {
	o := map_{}
	for k, v := range args {
		if slices.Contains(but, k) {
			continue
		}
		if sel, ok := v.(fields); ok {
			for k, v := range dbusOptions(sel) {
				o[k] = v
			}
			continue
		}
		switch name, _ := v.(string); k {
		case "value":
			v = []byte{0, 1}
		case "after", "lock":
			v = godbus.ObjectPath("/org/example/DlmLock/lock/" + name)
		}
		if n, ok := v.(int); ok {
			v = uint64(n)
		}
		o[cmp.Or(dbusNames[k], k)] = godbus.MakeVariant(v)
	}
	return o
}

// overDBus makes the call over D-Bus.
func overDBus(t *testing.T, c client, s step) string {
	a := in("dbus", s.args)
	call, result := dbusCall(t, c, s.method, a)
	if call.Err != nil {
		return dbusKind(call.Err)
	}
	return result(call)
}

func dbusKind(err error) string {
	var e godbus.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	return e.Name[strings.LastIndex(e.Name, ".")+1:]
}

// dbusCall calls a member; result is what is compared of its answer.
func dbusCall(t *testing.T, c client, method string, a fields) (*godbus.Call, func(*godbus.Call) string) {
	text := func(key string) string { s, _ := a[key].(string); return s }
	ok := func(*godbus.Call) string { return "ok" }
	number := func(call *godbus.Call) string { return fmt.Sprint(call.Body[0]) }
	space, resource := text("lockspace"), text("resource")
	switch method {
	case "Acquire":
		return c.call(method, space, resource, text("mode"), dbusOptions(a, "lockspace", "resource", "mode")),
			func(*godbus.Call) string { return fmt.Sprint("granted", resource) }
	case "AcquireMany":
		return dbusAcquireMany(t, c, a)
	case "Convert":
		return c.call(method, space, resource, text("mode"), dbusOptions(a, "lockspace", "resource", "mode")),
			func(call *godbus.Call) string { return fmt.Sprint("token ", call.Body[0].(uint64) != 0) }
	case "Release":
		return c.call(method, space, resource, dbusOptions(a, "lockspace", "resource")), ok
	case "ReleaseOwner":
		return c.call(method, space, text("owner")), number
	case "ReleaseMany":
		type name struct{ Lockspace, Resource string }
		names := []name{}
		for _, r := range a["resources"].([]fields) {
			names = append(names, name{r["lockspace"].(string), r["resource"].(string)})
		}
		return c.call(method, names, dbusOptions(a, "resources")), number
	case "Inspect":
		if node, ok := a["nodeId"].(int); ok {
			return c.call("InspectNode", uint32(node), space, resource),
				func(call *godbus.Call) string { return dbusInspection(t, call) }
		}
		return c.call(method, space, resource), func(call *godbus.Call) string { return dbusInspection(t, call) }
	case "ListLocks":
		return c.call(method, dbusOptions(a)), func(call *godbus.Call) string { return dbusRows(t, call) }
	case "ListLockspaces":
		return c.call(method), func(call *godbus.Call) string { return dbusLockspaces(t, call) }
	case "ListNodes":
		return c.call(method), func(call *godbus.Call) string { return dbusNodes(t, call) }
	case "ListLost":
		return c.call(method, dbusOptions(a)), func(call *godbus.Call) string { return dbusLost(t, call) }
	case "ListWaits":
		return c.call(method, dbusOptions(a)), func(call *godbus.Call) string { return dbusWaits(t, call) }
	case "ListOrphans":
		return c.call(method, space), func(call *godbus.Call) string { return fmt.Sprint(call.Body[0]) }
	case "AdoptOrphan":
		return c.call(method, space, uint32(a["lockId"].(int)), dbusOptions(a, "lockspace", "lockId")), ok
	case "Purge":
		ids := []uint32{}
		for _, id := range a["lockIds"].([]int) {
			ids = append(ids, uint32(id))
		}
		return c.call(method, space, ids, dbusOptions(a, "lockspace", "lockIds")), number
	}
	return c.call(method, space, dbusOptions(a, "lockspace")), ok
}

func dbusAcquireMany(t *testing.T, c client, a fields) (*godbus.Call, func(*godbus.Call) string) {
	type wanted struct{ Lockspace, Resource, Mode string }
	list, labels := []wanted{}, []string{}
	for _, w := range a["wanted"].([]fields) {
		list = append(list, wanted{w["lockspace"].(string), w["resource"].(string), w["mode"].(string)})
		if label, ok := w["label"].(string); ok {
			labels = append(labels, label)
		}
	}
	o := dbusOptions(a, "wanted")
	if len(labels) > 0 {
		o["labels"] = godbus.MakeVariant(labels)
	}
	return c.call("AcquireMany", list, o), func(call *godbus.Call) string {
		var granted []struct {
			Lockspace, Resource string
			LockID              uint32
			Token               uint64
			Lock                godbus.ObjectPath
		}
		require.NoError(t, call.Store(&granted))
		var names []any
		for _, g := range granted {
			names = append(names, g.Resource)
		}
		return fmt.Sprint("granted", names)
	}
}

func dbusInspection(t *testing.T, call *godbus.Call) string {
	var in map_
	require.NoError(t, call.Store(&in))
	var rows []row
	require.NoError(t, in["locks"].Store(&rows))
	var granted []struct {
		LockID, Node uint32
		Mode, Wanted string
	}
	require.NoError(t, in["granted"].Store(&granted))
	var holder struct {
		Node  uint32
		Mode  string
		Token uint64
		Who   string
	}
	require.NoError(t, in["holder"].Store(&holder))
	return fmt.Sprint(len(rows), len(granted), strings.ToLower(holder.Mode))
}

// null is a text as Varlink has it.
func null(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func dbusWaits(t *testing.T, call *godbus.Call) string {
	var waiters []struct {
		Lock                godbus.ObjectPath
		Lockspace, Resource string
		Mode, Wanted        string
		Since               uint64
		Who                 string
		For                 []struct {
			Node, LockID uint32
			Mode, Who    string
			Details      map_
		}
		Details map_
	}
	require.NoError(t, call.Store(&waiters))
	var rows []string
	for _, w := range waiters {
		var blockers []string
		for _, b := range w.For {
			queued, _ := b.Details["waits"].Value().(bool)
			blockers = append(blockers, fmt.Sprint(b.Node, strings.ToLower(b.Mode), b.Who, queued))
		}
		rows = append(rows, fmt.Sprint(w.Resource, null(strings.ToLower(w.Mode)), strings.ToLower(w.Wanted), w.Since > 0,
			w.Who, w.Details["owner"].Value(), w.Details["label"].Value(), w.Details["uid"].Value(),
			w.Details["master"].Value(), blockers))
	}
	return fmt.Sprint(rows)
}

func dbusLost(t *testing.T, call *godbus.Call) string {
	var lost []struct {
		Lock                godbus.ObjectPath
		Lockspace, Resource string
		LockID              uint32
		Mode, Owner, Label  string
		When                uint64
		Reason              string
		Details             map_
	}
	require.NoError(t, call.Store(&lost))
	var rows []string
	for _, l := range lost {
		rows = append(rows, fmt.Sprint(l.Resource, strings.ToLower(l.Mode), null(l.Owner), null(l.Label), l.Reason,
			l.When > 0))
	}
	return fmt.Sprint(rows)
}

func dbusLockspaces(t *testing.T, call *godbus.Call) string {
	var spaces []struct {
		Name, State string
		Locks       uint32
		Orphans     int32
		Details     map_
	}
	require.NoError(t, call.Store(&spaces))
	var rows []string
	for _, s := range spaces {
		rows = append(rows, fmt.Sprint(s.Name == "varlink", s.State, true))
	}
	return fmt.Sprint(rows)
}

func dbusNodes(t *testing.T, call *godbus.Call) string {
	var nodes []struct {
		ID      uint32
		Details map_
	}
	require.NoError(t, call.Store(&nodes))
	var rows []string
	for _, n := range nodes {
		rows = append(rows, fmt.Sprint(n.ID, n.Details["name"].Value(), n.Details["self"].Value(),
			n.Details["answers"].Value()))
	}
	return fmt.Sprint(rows)
}

func dbusRows(t *testing.T, call *godbus.Call) string {
	var page []row
	require.NoError(t, call.Store(&page))
	var rows []string
	for _, l := range page {
		rows = append(rows, fmt.Sprint(l.Resource, strings.ToLower(l.Mode), l.State, fmt.Sprint(null(l.Owner)), null(l.Label),
			l.Lifetime, l.UID))
	}
	return fmt.Sprint(rows)
}
