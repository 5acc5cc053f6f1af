package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// One suite of calls is played through both doors of one service, each in a
// lockspace of its own: same results, same errors.
//
// A step is a call in the words of the Varlink interface. Its result is an error's
// kind, or what is the same for both doors of the answer.
type step struct {
	method string
	args   fields
	nobody bool // a user without rights calls
}

var doorSteps = []step{
	{method: "ListLocks"},
	{method: "Acquire", args: fields{"resource": "a", "mode": "ex", "owner": "vm1", "label": "/disk"}},
	{method: "Acquire", args: fields{"resource": "a", "mode": "ex", "owner": "vm1"}}, // the same lock again
	{method: "Acquire", args: fields{"resource": "a", "mode": "PR", "owner": "vm1"}},
	{method: "Acquire", args: fields{"resource": "a", "mode": "exclusive"}},
	{method: "Acquire", args: fields{"resource": "a", "mode": "ex", "waitUSec": 2000}},
	{method: "Acquire", args: fields{"resource": "b", "mode": "shared", "lifetime": "process"}},
	{method: "Acquire", args: fields{"resource": "b", "mode": "pr", "lifetime": "connection"}},
	{method: "Acquire", args: fields{"resource": "b", "mode": "xx"}},
	{method: "Acquire", args: fields{"resource": "", "mode": "ex"}},
	{method: "Acquire", args: fields{"resource": strings.Repeat("x", 65), "mode": "ex"}},
	{method: "Acquire", args: fields{"resource": ".dlmlockd.anchor.x", "mode": "ex"}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "owner": ""}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "lifetime": "for ever"}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "processId": 1}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "lifetime": "process", "processId": 0}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "lifetime": "process", "processId": 1 << 22}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "onLost": "no such helper"}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "onLostData": "x"}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "onLost": "no such helper", "onLostData": "x"}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "processStartTicks": 1}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "lifetime": "process", "processStartTicks": 1}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "lifetime": "process", "processId": 1,
		"processStartTicks": 1}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "lifetime": "process", "processId": 1}, nobody: true},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "value": "AAE="}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "label": strings.Repeat("l", 5000)}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex", "frobnicate": 1}},
	{method: "Acquire", args: fields{"lockspace": "none", "resource": "c", "mode": "ex"}},
	{method: "Acquire", args: fields{"lockspace": "a/b", "resource": "c", "mode": "ex"}},
	{method: "Acquire", args: fields{"resource": "c", "mode": "ex"}, nobody: true},
	{method: "ListLocks"},
	{method: "ListLocks", args: fields{"owner": "vm1"}},
	{method: "ListLocks", args: fields{"mode": "pr", "state": "held", "limit": 1}},
	{method: "ListLocks", args: fields{"resource": "b", "userId": 0}},
	{method: "ListLocks", args: fields{"userId": 4711}},
	{method: "ListLocks", args: fields{"after": "999999"}},
	{method: "ListLocks", args: fields{"after": "x"}},
	{method: "ListLocks", args: fields{"after": "0"}},
	{method: "ListLocks", args: fields{"limit": 0}},
	{method: "ListLocks", args: fields{"state": "odd"}},
	{method: "ListLocks", args: fields{"mode": "odd"}},
	{method: "ListLocks", nobody: true},
	{method: "Inspect", args: fields{"resource": "a"}},
	{method: "Inspect", args: fields{"resource": "a"}, nobody: true},
	{method: "Inspect", args: fields{"lockspace": "none", "resource": "a"}},
	{method: "Inspect", args: fields{"resource": "a", "nodeId": 1}},
	{method: "Inspect", args: fields{"resource": "a", "nodeId": 7}},
	{method: "Inspect", args: fields{"resource": "a", "nodeId": 0}},
	{method: "ListLockspaces"},
	{method: "ListLockspaces", nobody: true},
	{method: "ListNodes"},
	{method: "ListNodes", nobody: true},
	{method: "Convert", args: fields{"resource": "a", "mode": "pr"}},
	{method: "Convert", args: fields{"resource": "a", "mode": "ex", "select": fields{"owner": "vm2"}}},
	{method: "Convert", args: fields{"resource": "a", "mode": "ex", "select": fields{"owner": "vm1"}, "waitUSec": 1000}},
	{method: "Convert", args: fields{"resource": "a", "mode": "ex", "waitUSec": 20000001}},
	{method: "Convert", args: fields{"resource": "a", "mode": "ex", "value": "AAE="}},
	{method: "Convert", args: fields{"resource": "a", "mode": "xx"}},
	{method: "Convert", args: fields{"resource": "a", "mode": "ex", "select": fields{"lock": "999999"}}},
	{method: "Convert", args: fields{"resource": "a", "mode": "ex", "select": fields{"lock": "x"}}},
	{method: "Convert", args: fields{"resource": "a", "mode": "ex", "select": fields{"lockId": 4711, "token": 1}}},
	{method: "Convert", args: fields{"resource": "a", "mode": "pr"}, nobody: true},
	{method: "Release", args: fields{"resource": "b"}}, // two of them
	{method: "Release", args: fields{"resource": "b", "select": fields{"lockId": 0}}},
	{method: "Release", args: fields{"resource": "a"}, nobody: true},
	{method: "Release", args: fields{"resource": "nothing"}},
	{method: "Release", args: fields{"resource": "a", "select": fields{"token": 1}}},
	{method: "Release", args: fields{"resource": "a", "select": fields{"lock": "999999"}}},
	{method: "Release", args: fields{"resource": "a", "select": fields{"lock": "007"}}},
	{method: "Release", args: fields{"resource": "a", "reason": strings.Repeat("r", 1025)}},
	{method: "Release", args: fields{"resource": "nothing", "reason": "why not"}},
	{method: "Release", args: fields{"resource": "a", "select": fields{"owner": "vm1"}}},
	{method: "Release", args: fields{"resource": "a", "select": fields{"owner": "vm1"}}},
	{method: "AcquireMany", args: fields{"owner": "vm3", "wanted": []fields{
		{"resource": "m1", "mode": "ex", "label": "one"}, {"resource": "m2", "mode": "pr", "label": "two"}}}},
	{method: "AcquireMany", args: fields{"wanted": []fields{
		{"resource": "m3", "mode": "ex"}, {"resource": "m1", "mode": "ex"}}}},
	{method: "AcquireMany", args: fields{"wanted": []fields{
		{"resource": "m3", "mode": "ex"}, {"resource": "m3", "mode": "ex"}}}},
	{method: "AcquireMany", args: fields{"wanted": []fields{}}},
	{method: "AcquireMany", args: fields{"owner": "vm6", "label": "all", "waitUSec": 1000, "lifetime": "process",
		"processId": os.Getpid(), "wanted": []fields{{"resource": "m5", "mode": "ex"}, {"resource": "m6", "mode": "pw"}}}},
	{method: "AcquireMany", args: fields{"lifetime": "process", "processId": 1, "processStartTicks": 1,
		"wanted": []fields{{"resource": "m7", "mode": "ex"}}}},
	{method: "AcquireMany", args: fields{"onLost": "no such helper", "onLostData": "x",
		"wanted": []fields{{"resource": "m7", "mode": "ex"}}}},
	{method: "AcquireMany", args: fields{"waitUSec": 20000001, "wanted": []fields{{"resource": "m7", "mode": "ex"}}}},
	{method: "ListLocks", args: fields{"owner": "vm6"}},
	{method: "ReleaseOwner", args: fields{"owner": "vm6"}},
	{method: "AcquireMany", args: fields{"wanted": []fields{{"resource": "m3", "mode": "zz"}}}},
	{method: "ReleaseMany", args: fields{"owner": "vm3", "resources": []fields{{"resource": "m1"}, {"resource": "none"}}}},
	{method: "ReleaseMany", args: fields{"owner": "vm3", "resources": []fields{}, "labels": []string{"two"}}},
	{method: "ReleaseMany", args: fields{"owner": "", "resources": []fields{}}},
	{method: "ReleaseMany", args: fields{"owner": "vm3", "resources": []fields{}, "reason": "why not"}},
	{method: "ReleaseMany", args: fields{"owner": "vm3", "resources": []fields{}, "reason": strings.Repeat("r", 1025)}},
	{method: "ReleaseOwner", args: fields{"owner": "vm3"}},
	{method: "Acquire", args: fields{"resource": "o", "mode": "ex", "owner": "vm4"}},
	{method: "ReleaseOwner", args: fields{"owner": "vm4"}, nobody: true},
	{method: "ReleaseOwner", args: fields{"owner": "vm4"}},
	{method: "ReleaseOwner", args: fields{"owner": ""}},
	{method: "ListOrphans"},
	{method: "ListOrphans", args: fields{"lockspace": "none"}},
	{method: "AdoptOrphan", args: fields{"lockId": 4711, "owner": "x"}},
	{method: "AdoptOrphan", args: fields{"lockId": 4711, "mode": "zz"}},
	{method: "AdoptOrphan", args: fields{"lockId": 4711}, nobody: true},
	{method: "AdoptOrphan", args: fields{"lockId": 4711, "owner": "", "label": "l"}},
	{method: "AdoptOrphan", args: fields{"lockId": 4711, "userId": 7, "resource": "r", "mode": "ex"}},
	{method: "AdoptOrphan", args: fields{"lockId": 0}},
	{method: "Purge", args: fields{"lockIds": []int{}}},
	{method: "Purge", args: fields{"lockIds": []int{4711}}},
	{method: "Purge", args: fields{"lockIds": []int{4711}, "some": true}},
	{method: "Purge", args: fields{"lockIds": []int{}}, nobody: true},
	{method: "Purge", args: fields{"lockIds": []int{}, "reason": "why not"}},
	{method: "Purge", args: fields{"lockIds": []int{}, "reason": strings.Repeat("r", 1025)}},
	{method: "JoinLockspace"},
	{method: "JoinLockspace", args: fields{"lockspace": ".x"}},
	{method: "JoinLockspace", args: fields{"lockspace": "other"}, nobody: true},
	{method: "LeaveLockspace", args: fields{"lockspace": "none"}},
	{method: "LeaveLockspace"}, // locks are held
	{method: "LeaveLockspace", nobody: true},
	{method: "LeaveLockspace", args: fields{"reason": strings.Repeat("r", 1025)}},
	{method: "ListLocks", args: fields{"nodeId": 7}}, // the embedded engine has no other nodes
	{method: "ListLocks", args: fields{"nodeId": 1}}, // this one
	{method: "ListLocks", args: fields{"nodeId": 0}},
	{method: "ListLost"},
	{method: "ListWaits"},
	{method: "Request"}, // by somebody else, for b
	{method: "ListWaits"},
	{method: "ListWaits", nobody: true},
	{method: "ListWaits", args: fields{"owner": "nobody's"}},
	{method: "ListWaits", args: fields{"resource": "b", "userId": 0, "limit": 1}},
	{method: "ListWaits", args: fields{"resource": ""}},
	{method: "ListWaits", args: fields{"limit": 0}},
	{method: "ListWaits", args: fields{"mode": "pr"}},
	{method: "ListWaits", args: fields{"after": "999999"}},
	{method: "LeaveLockspace", args: fields{"force": true, "reason": "why not"}},
	{method: "ListLocks"},
	{method: "ListLost"},
	{method: "ListLost", nobody: true},
	{method: "ListLost", args: fields{"owner": "nobody's"}},
	{method: "ListLost", args: fields{"resource": "b", "userId": 0, "limit": 1}},
	{method: "ListLost", args: fields{"resource": ""}},
	{method: "ListLost", args: fields{"limit": 0}},
	{method: "ListLost", args: fields{"limit": 1001}},
	{method: "ListLost", args: fields{"state": "held"}},
	{method: "Acquire", args: fields{"resource": "a", "mode": "ex"}},
}

func TestDoorsAgree(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	socket := filepath.Join(dir, "varlink")
	start(t, bus, filepath.Join(dir, "state"), "--varlink="+socket)
	root := newClient(bus.Dial(t))
	require.NoError(t, root.join("dbus"))
	require.NoError(t, root.join("varlink"))
	openDirectories(t, socket)
	nobody, err := testbus.Nobody.Connect(socket)
	require.NoError(t, err)
	dbusDoors := map[bool]client{false: root, true: newClient(bus.DialAs(t, testbus.Nobody))}
	varlinkDoors := map[bool]*varlinkClient{false: dialVarlink(t, socket), true: newVarlinkClient(t, nobody)}
	for n, s := range doorSteps {
		if s.method == "Request" { // only D-Bus has it
			waiter := newClient(bus.Dial(t))
			for _, space := range []string{"dbus", "varlink"} {
				require.NoError(t, waiter.call("Request", space, "b", "EX", opts("owner", "vm5@"+space, "label", "five")).Err)
			}
			continue
		}
		text, err := json.Marshal(s.args)
		require.NoError(t, err)
		what := fmt.Sprintf("step %d: %s %s, nobody: %v", n, s.method, text, s.nobody)
		d := strings.ReplaceAll(overDBus(t, dbusDoors[s.nobody], s), "@dbus", "")
		v := strings.ReplaceAll(overVarlink(varlinkDoors[s.nobody], s), "@varlink", "")
		require.Equal(t, d, v, what)
		t.Log(what, "->", v)
	}
}

// in puts the lockspace of a door into a call, and has owners of its own.
func in(space string, args fields) fields {
	out := maps.Clone(args)
	if out == nil {
		out = fields{}
	}
	if owner, _ := out["owner"].(string); owner != "" {
		out["owner"] = owner + "@" + space
	}
	if sel, ok := out["select"].(fields); ok {
		out["select"] = in(space, sel)
		delete(out["select"].(fields), "lockspace")
	}
	if out["lockspace"] == nil {
		out["lockspace"] = space
	}
	for _, list := range []string{"wanted", "resources"} {
		if elements, ok := out[list].([]fields); ok {
			delete(out, "lockspace")
			all := make([]fields, len(elements))
			for i, e := range elements {
				all[i] = in(space, e)
			}
			out[list] = all
		}
	}
	return out
}

// overVarlink makes the call over Varlink.
func overVarlink(c *varlinkClient, s step) string {
	args := in("varlink", s.args)
	if s.method == "ListLockspaces" || s.method == "ListNodes" {
		args = fields{} // all of them
	}
	list := strings.HasPrefix(s.method, "List")
	if list {
		c.send(s.method, args, "more")
	} else {
		c.send(s.method, args, "")
	}
	var rows []string
	for {
		r := c.receive()
		if r.Error != "" {
			text, _ := json.Marshal(s.args)
			requireWords(c.t, s.method+" "+string(text), s.method, r)
		}
		switch {
		case r.Error == "org.example.DlmLock.NoSuchLock":
			return "[]"
		case r.Error != "":
			return varlinkKind(r.Error)
		}
		if !list {
			return varlinkResult(s.method, r.Parameters)
		}
		rows = append(rows, varlinkRow(r.Parameters))
		if !r.Continues {
			return fmt.Sprint(rows)
		}
	}
}

// varlinkRow is what is compared of an element of a list.
func varlinkRow(p fields) string {
	if w, ok := p["waiter"].(fields); ok {
		return waiterRow(w)
	}
	if l, ok := p["lost"].(fields); ok {
		return fmt.Sprint(l["resource"], l["mode"], l["owner"], l["label"], l["reason"], l["lostUSec"].(float64) > 0)
	}
	if l, ok := p["lockspace"].(fields); ok {
		return fmt.Sprint(l["name"] == "varlink", l["state"], l["locks"] != nil)
	}
	if n, ok := p["node"].(fields); ok {
		return fmt.Sprint(n["nodeId"], n["name"], n["self"], n["answers"])
	}
	l, _ := p["lock"].(fields)
	return fmt.Sprint(l["resource"], l["mode"], l["state"], cmp.Or(fmt.Sprint(l["owner"]), "<nil>"),
		l["label"], l["lifetime"], l["userId"])
}

// waiterRow is what is compared of one that waits.
func waiterRow(w fields) string {
	l := w["lock"].(fields)
	var blockers []string
	for _, b := range w["blockers"].([]any) {
		b := b.(fields)
		blockers = append(blockers, fmt.Sprint(b["nodeId"], b["mode"], b["who"], b["waits"]))
	}
	return fmt.Sprint(l["resource"], l["mode"], l["wantedMode"], l["waitingSinceUSec"].(float64) > 0, w["who"], l["owner"],
		l["label"], l["userId"], w["masterNodeId"], blockers)
}

func varlinkKind(name string) string {
	switch kind, ok := strings.CutPrefix(name, "org.example.DlmLock."); {
	case ok:
		return kind
	case name == "org.varlink.service.InvalidParameter":
		return "InvalidArgs"
	case name == "org.varlink.service.PermissionDenied":
		return "AccessDenied"
	}
	return name
}

func varlinkResult(method string, p fields) string {
	switch method {
	case "Acquire":
		return fmt.Sprint("granted", p["granted"].(fields)["resource"])
	case "AcquireMany":
		var names []any
		for _, g := range p["granted"].([]any) {
			names = append(names, g.(fields)["resource"])
		}
		return fmt.Sprint("granted", names)
	case "Convert":
		return fmt.Sprint("token ", p["token"].(float64) != 0)
	case "Inspect":
		q := p["queues"].(fields)
		return fmt.Sprint(len(p["locks"].([]any)), len(q["granted"].([]any)), p["holder"].(fields)["mode"])
	case "ReleaseOwner", "ReleaseMany":
		return fmt.Sprint(p["released"])
	case "Purge":
		return fmt.Sprint(p["purged"])
	}
	return "ok"
}
