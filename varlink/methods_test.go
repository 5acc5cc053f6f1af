package varlink

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

const disk = `{"lockspace":"vms","resource":"disk1","mode":"ex"}`

// part reads a field of a field of a reply.
func part(m map[string]any, path ...string) any {
	var v any = m
	for _, p := range path {
		next, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = next[p]
	}
	return v
}

func TestAcquireAndRelease(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	g := c.ok("Acquire", disk)["granted"].(map[string]any)
	require.Equal(t, "vms", g["lockspace"])
	require.Equal(t, "disk1", g["resource"])
	require.Positive(t, g["lockId"])
	require.Positive(t, g["token"])
	require.NotEmpty(t, g["lock"])

	other := r.dial()
	e := other.fails("WouldBlock", "Acquire", disk)
	require.Contains(t, e["message"], "acquire vms/disk1 EX: ")
	e = other.fails("Timeout", "Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","waitUSec":1000}`)
	require.NotEmpty(t, e["message"])

	require.Empty(t, c.ok("Release", `{"lockspace":"vms","resource":"disk1"}`))
	e = c.fails("NotHeld", "Release", `{"lockspace":"vms","resource":"disk1"}`)
	require.Contains(t, e["message"], "release vms/disk1: ")
	other.ok("Acquire", disk)
}

func TestConvert(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	c.ok("Acquire", `{"lockspace":"vms","resource":"disk1","mode":"pr","owner":"a"}`)
	converted := c.ok("Convert", `{"lockspace":"vms","resource":"disk1","mode":"EX","select":{"owner":"a"}}`)
	require.Positive(t, converted["token"])
	c.fails("NotHeld", "Convert", `{"lockspace":"vms","resource":"disk1","mode":"ex","select":{"owner":"b"}}`)
	c.fails("AlreadyHeld", "Acquire", `{"lockspace":"vms","resource":"disk1","mode":"pr","owner":"a"}`)
	list := c.all("ListLocks", "")
	require.Len(t, list, 1)
	require.Equal(t, "ex", part(list[0], "lock", "mode"))
}

// Several locks match: the candidates are told, and any of them can be named.
func TestAmbiguous(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	for _, owner := range []string{"a", "b"} {
		c.ok("Acquire", `{"lockspace":"vms","resource":"disk1","mode":"pr","owner":"`+owner+`","label":"of `+owner+`"}`)
	}
	e := c.fails("Ambiguous", "Release", `{"lockspace":"vms","resource":"disk1"}`)
	candidates := e["candidates"].([]any)
	require.Len(t, candidates, 2)
	first := candidates[0].(map[string]any)
	require.Equal(t, "of a", first["label"])
	c.ok("Release", fmt.Sprintf(`{"lockspace":"vms","resource":"disk1","select":{"lock":"%s"}}`, first["lock"]))
	second := candidates[1].(map[string]any)
	c.ok("Release", fmt.Sprintf(`{"lockspace":"vms","resource":"disk1","select":{"lockId":%.0f}}`, second["lockId"]))
}

func TestManyLocks(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	granted := c.ok("AcquireMany", `{"owner":"vm1","label":"all","wanted":[
		{"lockspace":"vms","resource":"b","mode":"ex"},
		{"lockspace":"vms","resource":"a","mode":"pr","label":"own"}]}`)["granted"].([]any)
	require.Equal(t, "b", granted[0].(map[string]any)["resource"])
	require.Equal(t, "a", granted[1].(map[string]any)["resource"])
	labels := map[any]any{}
	for _, l := range c.all("ListLocks", `{"owner":"vm1"}`) {
		labels[part(l, "lock", "resource")] = part(l, "lock", "label")
	}
	require.Equal(t, map[any]any{"a": "own", "b": "all"}, labels)
	c.fails("WouldBlock", "AcquireMany", `{"owner":"vm2","wanted":[{"lockspace":"vms","resource":"c","mode":"ex"},
		{"lockspace":"vms","resource":"b","mode":"ex"}]}`)
	require.Empty(t, c.ok("AcquireMany", `{"wanted":[]}`)["granted"])
	require.EqualValues(t, 1, c.ok("ReleaseMany", `{"owner":"vm1","resources":[{"lockspace":"vms","resource":"b"},
		{"lockspace":"vms","resource":"c"}]}`)["released"])
	require.EqualValues(t, 1, c.ok("ReleaseMany", `{"owner":"vm1","resources":[],"labels":["own"]}`)["released"])
	require.EqualValues(t, 0, c.ok("ReleaseOwner", `{"owner":"vm1"}`)["released"])
	c.ok("Acquire", `{"lockspace":"vms","resource":"d","mode":"ex","owner":"vm1"}`)
	require.EqualValues(t, 1, c.ok("ReleaseOwner", `{"owner":"vm1","lockspace":"vms"}`)["released"])
	c.fails("InvalidName", "ReleaseOwner", `{"owner":"vm1","lockspace":""}`)
}

// Lists come by more, all of them, in order, also those of several pages.
func TestLists(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	for _, m := range []string{"ListLocks", "ListLockspaces", "ListOrphans"} {
		c.fails(errExpectedMore, m, `{"lockspace":"vms"}`)
	}
	c.send("ListLocks", "", "more")
	require.Equal(t, Interface+".NoSuchLock", c.receive().Error)
	c.send("ListOrphans", `{"lockspace":"vms"}`, "more")
	require.Equal(t, Interface+".NoSuchLock", c.receive().Error)
	spaces := c.all("ListLockspaces", "")
	require.Len(t, spaces, 1)
	require.Equal(t, "vms", part(spaces[0], "lockspace", "name"))
	require.Equal(t, "ready", part(spaces[0], "lockspace", "state"))

	const n = 1300 // more than two pages
	for batch := range n / 100 {
		var wanted []string
		for i := range 100 {
			wanted = append(wanted, fmt.Sprintf(`{"lockspace":"vms","resource":"r%d","mode":"ex"}`, batch*100+i))
		}
		c.ok("AcquireMany", `{"owner":"many","wanted":[`+strings.Join(wanted, ",")+`]}`)
	}
	list := c.all("ListLocks", `{"owner":"many"}`)
	require.Len(t, list, n)
	seen := map[any]bool{}
	for _, l := range list {
		seen[part(l, "lock", "resource")] = true
	}
	require.Len(t, seen, n)
	require.Len(t, c.all("ListLocks", `{"limit":700}`), 700)
	after := part(list[n-3], "lock", "lock").(string)
	require.Equal(t, list[n-2:], c.all("ListLocks", `{"after":"`+after+`"}`))
	one := `{"resource":"r7","lockspace":"vms","mode":"ex","state":"held","userId":0,"limit":5}`
	require.Len(t, c.all("ListLocks", one), 1)
	for field, value := range map[string]string{
		"mode": `"xx"`, "state": `"gone"`, "limit": "0", "after": `"x"`, "lockspace": `""`,
	} {
		c.send("ListLocks", fmt.Sprintf(`{"%s":%s}`, field, value), "more")
		require.NotEmpty(t, c.receive().Error, field)
	}
}

func TestInspect(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	c.ok("Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","owner":"vm1","label":"/disk1"}`)
	in := c.ok("Inspect", `{"lockspace":"vms","resource":"disk1"}`)
	locks := in["locks"].([]any)
	require.Len(t, locks, 1)
	require.Equal(t, "/disk1", part(locks[0].(map[string]any), "label"))
	require.Equal(t, "vm1", part(locks[0].(map[string]any), "owner"))
	require.Equal(t, "ex", part(in, "holder", "mode"))
	require.EqualValues(t, 1, part(in, "holder", "nodeId"))
	value, err := base64.StdEncoding.DecodeString(in["value"].(string))
	require.NoError(t, err)
	require.Len(t, value, 32)
	require.Len(t, part(in, "queues", "granted"), 1)
	require.Equal(t, true, part(in, "queues", "complete"))
	c.fails("NoSuchLockspace", "Inspect", `{"lockspace":"none","resource":"disk1"}`)
	c.fails("InvalidName", "Inspect", `{"lockspace":"vms","resource":""}`)
}

func TestLockspaces(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	require.Empty(t, c.ok("JoinLockspace", `{"lockspace":"backup"}`))
	require.Len(t, c.all("ListLockspaces", ""), 2)
	c.ok("Acquire", `{"lockspace":"backup","resource":"r","mode":"ex"}`)
	c.fails("LockspaceInUse", "LeaveLockspace", `{"lockspace":"backup"}`)
	require.Empty(t, c.ok("LeaveLockspace", `{"lockspace":"backup","force":true}`))
	require.Len(t, c.all("ListLockspaces", ""), 1)
	require.EqualValues(t, 0, c.ok("Purge", `{"lockspace":"vms","lockIds":[]}`)["purged"])
	e := c.call("AdoptOrphan", `{"lockspace":"vms","lockId":77,"owner":"x"}`)
	require.NotEmpty(t, e.Error)
}

var longValue = base64.StdEncoding.EncodeToString(make([]byte, 33))

func TestRawValues(t *testing.T) {
	r := newRig(t, rigConfig{raw: []string{"vms"}})
	c := r.dial()
	c.ok("Acquire", `{"lockspace":"vms","resource":"disk1","mode":"ex","value":"AQID"}`)
	value := func() string {
		in := c.ok("Inspect", `{"lockspace":"vms","resource":"disk1"}`)
		v, err := base64.StdEncoding.DecodeString(in["value"].(string))
		require.NoError(t, err)
		return strings.TrimRight(string(v), "\x00")
	}
	require.Equal(t, "\x01\x02\x03", value())
	c.ok("Convert", `{"lockspace":"vms","resource":"disk1","mode":"pr","value":"/w=="}`)
	require.Equal(t, "\xff", value())
	e := c.fails(errInvalidParameter, "Convert", `{"lockspace":"vms","resource":"disk1","mode":"pr","value":"!"}`)
	require.Equal(t, "value", e["parameter"])
	e = c.fails(errInvalidParameter, "Acquire", `{"lockspace":"vms","resource":"d","mode":"ex","value":"`+longValue+`"}`)
	require.Equal(t, "value", e["parameter"])
	require.Contains(t, e["message"], "33 bytes")
}

func TestDescribe(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	c.ok("Acquire", disk)
	d := c.ok("Describe", "")
	for part(d, "counters", "locksGranted") != 1.0 { // the status is that of a moment ago
		d = c.ok("Describe", "")
	}
	for field, want := range map[string]any{
		"version": "1.2.3", "commit": "0123abc", "engine": "local", "nodeId": 1.0, "lockCount": 1.0, "lockspaceCount": 1.0,
	} {
		require.Equal(t, want, part(d, "service", field), field)
	}
	require.EqualValues(t, 1, part(d, "counters", "locksGranted"))
	require.EqualValues(t, 1, part(d, "counters", "grantLatency", "count"))
	c.send("Describe", "{}", "more")
	require.True(t, c.receive().Continues)
	r.cluster.SetQuorate(false)
	for part(c.receive().Parameters, "service", "quorate") != false {
	}
}

// What is wrong with a call is told by the name of the field.
func TestInvalidParameters(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	for _, x := range []struct{ method, parameters, field, says string }{
		{"Acquire", `{"resource":"a","mode":"ex"}`, "lockspace", "missing"},
		{"Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","wait":1}`, "wait", "no such field"},
		{"Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","mode":"pr"}`, "mode", "twice"},
		{"Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","owner":""}`, "owner", "at least one byte"},
		{"Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","lifetime":"life"}`, "lifetime",
			"persistent, connection, process"},
		{"Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","processId":7}`, "processId", "lifetime"},
		{"Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","processStartTicks":7}`, "processStartTicks", "lifetime"},
		{"Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","onLostData":"x"}`, "onLost", "missing"},
		{"Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","progress":true}`, "progress", "more"},
		{"Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","waitUSec":-1}`, "waitUSec", "negative"},
		{"Release", `{"lockspace":"vms","resource":"a","select":{"lockId":0}}`, "select.lockId", "no lockid"},
		{"Release", `{"lockspace":"vms","resource":"a","select":{"lock":"01"}}`, "select.lock", "name of a lock"},
		{"Release", `{"lockspace":"vms","resource":"a","select":{"x":1}}`, "select.x", "no such field"},
		{"AcquireMany", `{"wanted":[{"lockspace":"vms","resource":"a"}]}`, "wanted[0].mode", "missing"},
		{"Convert", `{"lockspace":"vms","resource":"a","mode":"ex","waitUSec":20000001}`, "waitUSec", "20s"},
		{"Convert", `{"lockspace":"vms","resource":"a","mode":"ex","waitUSec":20000001,"select":{"lock":"x"}}`,
			"waitUSec", "20s"},
		{"Convert", `{"lockspace":"vms","resource":"a","mode":"ex","value":"` + longValue + `","select":{"owner":"o"}}`,
			"value", "33 bytes"},
		{"ReleaseMany", `{"resources":[],"owner":""}`, "owner", "missing or empty"},
		{"Describe", `{"x":1}`, "x", "no such field"},
		{"Acquire", with(`"lifetime":"process","processId":4194304`), "processId", "no process with that pid"},
		{"Acquire", with(`"lifetime":"process","processId":1,"processStartTicks":1`), "processStartTicks", "not at 1:"},
		{"Acquire", with(`"value":"AAE="`), "value", "fencing tokens"},
		{"Purge", `{"lockspace":"vms","lockIds":[4711]}`, "lockIds", "not those that were named; call ListOrphans"},
		{"ReleaseOwner", `{"owner":""}`, "owner", "release: owner: the owner is empty"},
		{"Inspect", `{"lockspace":"vms","resource":"a","nodeId":0}`, "nodeId", "not the number of a node"},
	} {
		e := c.fails(errInvalidParameter, x.method, x.parameters)
		require.Equal(t, x.field, e["parameter"], x.parameters)
		require.Contains(t, e["message"], x.says, x.parameters)
	}
	// The operations have the words of this door, too.
	c.send("ListOrphans", `{"lockspace":"a/b"}`, "more")
	require.Contains(t, c.receive().Parameters["message"], "list orphans a/b: ")
	c.send("Acquire", `{"lockspace":"none","resource":"a","mode":"ex"}`, "more")
	require.Contains(t, c.receive().Parameters["message"], "acquire none/a: ")
	e := c.fails("InvalidMode", "Acquire", `{"lockspace":"vms","resource":"a","mode":"xx"}`)
	require.Contains(t, e["message"], "acquire vms/a: ")
	c.fails("InvalidName", "Acquire", `{"lockspace":"v/ms","resource":"a","mode":"ex"}`)
	c.fails("NoSuchLockspace", "Acquire", `{"lockspace":"none","resource":"a","mode":"ex"}`)
}

func TestStandardMethods(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	info := c.ok("org.varlink.service.GetInfo", "")
	require.Equal(t, []any{"io.systemd.service", Interface, "org.varlink.service"}, info["interfaces"])
	for _, name := range info["interfaces"].([]any) {
		d := c.ok("org.varlink.service.GetInterfaceDescription", fmt.Sprintf(`{"interface":"%s"}`, name))
		require.Contains(t, d["description"], "interface "+name.(string))
	}
	e := c.fails(errInterfaceNotFound, "org.varlink.service.GetInterfaceDescription", `{"interface":"a.b"}`)
	require.Equal(t, "a.b", e["interface"])
	e = c.fails(errMethodNotFound, "Frobnicate", "")
	require.Equal(t, Interface+".Frobnicate", e["method"])
	c.fails(errInterfaceNotFound, "a.b.C", "")
	c.fails(errInterfaceNotFound, "x.", "")
	e = c.fails(errInvalidParameter, "org.varlink.service.GetInterfaceDescription", "")
	require.Equal(t, "interface", e["parameter"])

	c.ok("io.systemd.service.Ping", "")
	c.ok("io.systemd.service.SetLogLevel", `{"level":7}`)
	require.EqualValues(t, 7, c.ok("io.systemd.service.GetLogLevel", "")["level"])
	c.fails(errInvalidParameter, "io.systemd.service.SetLogLevel", `{"level":8}`)
	require.NotEmpty(t, c.ok("io.systemd.service.GetEnvironment", "")["environment"])
	e = c.fails("InvalidConfiguration", "io.systemd.service.Reload", "")
	require.Equal(t, "reload: line 7: no", e["message"])
	r.door.cfg.Reload = func() error { return &api.Error{Op: "reload", Kind: api.Timeout, Mode: dlm.None, Text: "busy"} }
	e = c.fails("Timeout", "io.systemd.service.Reload", "")
	require.Equal(t, "reload: busy", e["message"])
}
