package varlink

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What was lost is listed, the last one first, by whatever filter, also when its lockspace was
// left; and what was released is not.
func TestListLost(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	c.send("ListLost", "", "more")
	require.Equal(t, Interface+".NoSuchLock", c.receive().Error)
	c.fails(errExpectedMore, "ListLost", "")
	g := c.ok("Acquire", `{"lockspace":"vms","resource":"a","mode":"ex","owner":"vm1","label":"the disk"}`)
	c.ok("Acquire", `{"lockspace":"vms","resource":"b","mode":"ex"}`)
	c.ok("Acquire", `{"lockspace":"vms","resource":"released","mode":"ex"}`)
	c.ok("Release", `{"lockspace":"vms","resource":"released"}`)
	c.ok("LeaveLockspace", `{"lockspace":"vms","force":true}`)
	c.ok("JoinLockspace", `{"lockspace":"more"}`)
	c.ok("Acquire", `{"lockspace":"more","resource":"c","mode":"pr","owner":"vm1"}`)
	c.ok("LeaveLockspace", `{"lockspace":"more","force":true}`)

	names := func(filter string) (names []string) {
		for _, l := range c.all("ListLost", filter) {
			names = append(names, part(l, "lost", "lockspace").(string)+"/"+part(l, "lost", "resource").(string))
		}
		return names
	}
	all := names("")
	require.Equal(t, "more/c", all[0])
	require.ElementsMatch(t, []string{"more/c", "vms/a", "vms/b"}, all)
	require.Equal(t, []string{"more/c", "vms/a"}, names(`{"owner":"vm1"}`))
	require.Equal(t, []string{"more/c"}, names(`{"owner":"vm1","limit":1}`))
	require.Equal(t, []string{"vms/b"}, names(`{"lockspace":"vms","resource":"b"}`))
	require.Len(t, names(`{"userId":0,"limit":1000}`), 3)

	row := c.all("ListLost", `{"resource":"a"}`)[0]["lost"].(map[string]any)
	for field, want := range map[string]any{"lock": part(g, "granted", "lock"), "lockId": part(g, "granted", "lockId"),
		"mode": "ex", "owner": "vm1", "label": "the disk"} {
		require.Equal(t, want, row[field], field)
	}
	require.NotZero(t, row["lostUSec"])
	require.NotEmpty(t, row["reason"])

	for filter, field := range map[string]string{
		`{"limit":0}`: "limit", `{"limit":1001}`: "limit", `{"owner":""}`: "owner", `{"state":"held"}`: "state",
	} {
		c.send("ListLost", filter, "more")
		a := c.receive()
		require.Equal(t, errInvalidParameter, a.Error, filter)
		require.Equal(t, field, a.Parameters["parameter"], filter)
	}
	c.send("ListLost", `{"lockspace":""}`, "more")
	require.Equal(t, Interface+".InvalidName", c.receive().Error)
}

// A reason is logged with who did what, when it is done, and not when it is not.
func TestReasonIsLogged(t *testing.T) {
	r := newRig(t, rigConfig{})
	c := r.dial()
	for _, resource := range []string{"a", "c", "d"} {
		c.ok("Acquire", `{"lockspace":"vms","resource":"`+resource+`","mode":"ex","owner":"`+resource+`"}`)
	}
	c.fails("NotHeld", "Release", `{"lockspace":"vms","resource":"b","reason":"not done"}`)
	c.ok("Release", `{"lockspace":"vms","resource":"a","reason":"the guest is gone\nfor good"}`)
	c.ok("ReleaseMany", `{"owner":"c","resources":[{"lockspace":"vms","resource":"c"}],"reason":"all of it"}`)
	c.fails("LockspaceInUse", "LeaveLockspace", `{"lockspace":"vms","reason":"not left"}`)
	c.ok("Purge", `{"lockspace":"vms","lockIds":[],"reason":"nothing there"}`)
	c.ok("LeaveLockspace", `{"lockspace":"vms","force":true,"reason":"maintenance"}`)
	for method, parameters := range map[string]string{
		"Release":        `{"lockspace":"vms","resource":"a","reason":"`,
		"ReleaseMany":    `{"owner":"c","resources":[],"reason":"`,
		"LeaveLockspace": `{"lockspace":"vms","reason":"`,
		"Purge":          `{"lockspace":"vms","lockIds":[],"reason":"`,
	} {
		e := c.fails(errInvalidParameter, method, parameters+strings.Repeat("x", 1025)+`"}`)
		require.Equal(t, "reason", e["parameter"], method)
	}
	log := r.logs.String()
	require.NotContains(t, log, "not done")
	require.NotContains(t, log, "not left")
	for _, line := range []string{
		`op=release lockspace=vms resource=a uid=0 session=varlink:`, `reason="the guest is gone\\nfor good"`,
		`op=release owner=c uid=0 session=varlink:`, `reason="all of it"`,
		`op=purge lockspace=vms uid=0 session=varlink:`, `reason="nothing there"`,
		`op=leave lockspace=vms uid=0 session=varlink:`, `reason=maintenance`,
	} {
		require.Contains(t, log, line)
	}
}
