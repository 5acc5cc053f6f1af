package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/client"
)

func TestVisible(t *testing.T) {
	for in, want := range map[string]string{
		"disk1":        "disk1",
		"größe ☃ x":    "größe ☃ x",
		"":             "",
		"a\x1b[2Jb":    `a\x1b[2Jb`,
		"a\nb\tc":      `a\nb\tc`,
		"\xff":         `\xff`,
		"a\u202eb":     `a\u202eb`,
		"\u009b31mred": `\u009b31mred`,
	} {
		require.Equal(t, want, visible(in))
	}
}

// Whatever a name holds, a line stays a line and no terminal obeys it.
func TestVisibleProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "in"))
		require.Less(t, strings.IndexFunc(visible(in), func(r rune) bool { return !unicode.IsPrint(r) }), 0)
	})
}

func TestTable(t *testing.T) {
	var b bytes.Buffer
	tab := table{heading: []string{"A", "LONGER", "C"}}
	tab.add(text("größe"), cell{"x", red}, text("end"))
	tab.add(text("b"), text(""), text(""))
	tab.write(&b)
	require.Equal(t, ""+
		"A      LONGER  C\n"+
		"größe  x       end\n"+
		"b      -       -\n", b.String())
}

// Columns stay aligned on a terminal, whatever the width of the characters in them.
func TestTableInCells(t *testing.T) {
	for in, want := range map[string]int{
		"": 0, "disk": 4, "größe": 5, "gro\u0308ße": 5, "磁盘": 4, "ﾃﾞ": 2, "ｄ": 2, "💾": 2, "각": 2,
		"\u1100\u1161\u11a8": 2, visible("a\u200db"): 8, visible("\x1b"): 4,
	} {
		require.Equal(t, want, cellsOf(in), "%q", in)
	}
	for _, tc := range []struct {
		in   string
		most int
		want string
	}{
		{"磁盘", 4, "磁盘"}, {"磁盘", 3, "磁…"}, {"磁盘一", 4, "磁…"}, {"磁盘一", 5, "磁盘…"}, {"a\u0308bc", 2, "a\u0308…"},
		{"disk", 1, "…"}, {"disk", 0, "…"},
	} {
		require.Equal(t, tc.want, shortened(tc.in, tc.most), "%q in %d", tc.in, tc.most)
	}
	var b bytes.Buffer
	tab := table{heading: []string{"RESOURCE", "C"}, elastic: []string{"RESOURCE"}}
	tab.add(text("vms/磁盘一二三四五"), text("end"))
	tab.add(text("vms/gro\u0308ße"), text("end"))
	tab.print(&b, 18)
	require.Equal(t, ""+
		"RESOURCE       C\n"+
		"vms/磁盘一二…  end\n"+
		"vms/gro\u0308ße      end\n", b.String())
}

func TestWaitFlag(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "5m": 5 * time.Minute, "1h30m": 90 * time.Minute, "10": 10 * time.Second,
		"0.5":     500 * time.Millisecond,
		"forever": -1, "0": 0, "250ms": 250 * time.Millisecond,
	} {
		var w waitFlag
		require.NoError(t, w.Set(in), in)
		require.Equal(t, want, w.d, in)
		again := waitFlag{}
		require.NoError(t, again.Set(w.String()), "what it shows it takes")
		require.Equal(t, w, again)
	}
	for _, in := range []string{"", "soon", "-1", "-5s", "1e300", "NaN", "Inf", "10 s", "never"} {
		var w waitFlag
		require.Error(t, w.Set(in), in)
	}
}

func queued(lockid, node uint32, mode, wanted string) client.Queued {
	return client.Queued{LockID: lockid, Node: node, Mode: mode, Wanted: wanted}
}

func TestHolders(t *testing.T) {
	mine := client.Lock{LockID: 2, Mode: "EX", State: "held", PID: 77}
	labelled, owned := mine, mine
	labelled.Label, labelled.Owner, owned.Owner = "the\ndisk", "vm1", "vm1"
	for _, tc := range []struct {
		in   client.Inspection
		want string
	}{
		{client.Inspection{}, ""},
		{client.Inspection{Locks: []client.Lock{mine}}, "process 77 (this node, EX)"},
		{client.Inspection{Locks: []client.Lock{{LockID: 2, Mode: "EX", State: "held", UID: 7}}},
			"uid 7 (this node, EX)"},
		{client.Inspection{Locks: []client.Lock{owned}}, "vm1 (this node, EX)"},
		{client.Inspection{Locks: []client.Lock{labelled}}, `the\ndisk (this node, EX)`},
		{client.Inspection{Locks: []client.Lock{{State: "acquiring", Wanted: "EX"}}}, ""},
		// This node's own lock is not told twice, and a null lock holds nothing.
		{client.Inspection{Locks: []client.Lock{owned}, Granted: []client.Queued{queued(2, 1, "EX", ""), queued(3, 2, "NL",
			"")}}, "vm1 (this node, EX)"},
		{client.Inspection{Granted: []client.Queued{queued(9, 2, "PR", ""), queued(8, 3, "PR", "")}},
			"node 2 (PR), node 3 (PR)"},
		{client.Inspection{Granted: []client.Queued{queued(9, 2, "EX", "")}, Holder: &client.Holder{Node: 2, Mode: "EX",
			Who: "vm2"}}, "vm2 (node 2, EX)"},
		// Where this node does not keep the queues, what was published is all.
		{client.Inspection{Holder: &client.Holder{Node: 2, Mode: "EX", Who: "vm2"}}, "vm2 (node 2, EX)"},
		{client.Inspection{Holder: &client.Holder{Node: 0, Mode: "NL", Who: "vm2"}}, ""},
	} {
		require.Equal(t, tc.want, nodeNames(nil).holders(tc.in.Obstacles("EX", client.Selector{})))
	}
}

// A lock that is to be converted is not in its own way, however it was selected.
func TestOwnLock(t *testing.T) {
	locks := []client.Lock{{Lock: "a", Owner: "web", UID: 7, State: "held"}, {Lock: "b", Owner: "web", UID: 8},
		{Lock: "c", Owner: "db", UID: 8}, {Lock: "d", UID: 7, State: "acquiring"}}
	for _, tc := range []struct {
		converting *client.Selector
		uid        int
		own        client.LockName
		known      bool
	}{
		{nil, 7, "", true},
		{&client.Selector{}, 7, "a", true},
		{&client.Selector{}, 8, "", false},
		{&client.Selector{Owner: "web"}, 8, "b", true},
		{&client.Selector{Owner: "db"}, 0, "c", true}, // root's conversion of another user's lock
		{&client.Selector{Owner: "web"}, 0, "", false},
		{&client.Selector{Lock: "d"}, 7, "", false},
	} {
		own, known := ownLock(locks, tc.converting, tc.uid)
		require.Equal(t, client.Selector{Lock: tc.own}, own, tc)
		require.Equal(t, tc.known, known, tc)
	}
}

func TestProgressLine(t *testing.T) {
	one := []client.Want{{Lockspace: "vms", Resource: "disk\x1b1", Mode: "EX"}}
	require.Equal(t, `waiting for vms/disk\x1b1: 3s`, progressLine(one, "", 3*time.Second, -1))
	require.Equal(t, "waiting for vms/disk\\x1b1 and 1 more: 1m5s of 2m0s, held by vm1",
		progressLine(append(one, one[0]), "vm1", 65*time.Second, 2*time.Minute))
}

func TestEventLine(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	for _, tc := range []struct {
		e    client.Event
		want string
	}{
		{client.Event{Kind: client.ServiceStopped}, "service-stopped"},
		{client.Event{Kind: client.LockLost, Lockspace: "vms", Resource: "a\nb", Mode: "EX", Reason: "left"},
			`lock-lost vms/a\nb EX: left`},
		{client.Event{Kind: client.Blocking, Resource: "a", Mode: "EX"}, "blocking a EX"},
		{client.Event{Kind: client.Blocking, Resource: "a", Mode: "EX", Node: 2}, "blocking a EX for node 2"},
		{client.Event{Kind: client.Blocking, Lockspace: "vms", Resource: "a", Mode: "EX"}, "blocking vms/a EX"},
		{client.Event{Kind: client.LockspaceChanged, Lockspace: "vms", State: "ready",
			Details: map[string]any{"stopped": false, "members": []uint32{1, 2}}},
			"lockspace-changed vms ready members=[1, 2] stopped=false"},
	} {
		tc.e.Time = at
		require.Equal(t, "2026-01-02 03:04:05 "+tc.want, eventLine(tc.e, nil))
	}
	require.False(t, concerns(client.Event{Kind: client.Blocking, Lockspace: "backup"}, client.Filter{Lockspace: "vms"}))
	names := nodeNames{1: "alpha", 2: "beta"}
	require.Equal(t, "2026-01-02 03:04:05 blocking a EX for node 2 (beta)",
		eventLine(client.Event{Time: at, Kind: client.Blocking, Resource: "a", Mode: "EX", Node: 2}, names))
	require.Equal(t, "2026-01-02 03:04:05 lockspace-changed vms ready members=[1 (alpha), 2 (beta), 3]",
		eventLine(client.Event{Time: at, Kind: client.LockspaceChanged, Lockspace: "vms", State: "ready",
			Details: map[string]any{"members": []uint32{1, 2, 3}}}, names))
}

// The nodes of a lockspace are shown by number and, as far as they are known, by name.
func TestSpaceTableNamesNodes(t *testing.T) {
	var b bytes.Buffer
	a := &app{printer: printer{out: &output{to: &b}, err: &b}}
	spaces := []client.Lockspace{{Name: "vms", State: "ready", Health: client.Health{Members: []uint32{1, 2, 3}}},
		{Name: "new", State: "joining"}}
	a.spaceTable(spaces, nodeNames{1: "alpha", 2: "beta"})
	require.Regexp(t, `(?m)^vms +ready +0 +0 +1 \(alpha\), 2 \(beta\), 3 +-$`, b.String())
	require.Regexp(t, `(?m)^new +joining +0 +0 +- +-$`, b.String())
	b.Reset()
	a.spaceTable(spaces, nil)
	require.Regexp(t, `(?m)^vms +ready +0 +0 +1, 2, 3 +-$`, b.String())
}

// What an older or a poorer service leaves out is not shown as something else.
func TestInspectionPoorerAndRicher(t *testing.T) {
	var b bytes.Buffer
	a := &app{printer: printer{out: &output{to: &b}, err: &b}}
	a.inspection("vms", "d", &client.Inspection{Missing: []string{"no debugfs"}}, nil)
	require.Equal(t, "vms/d: not held, as far as known\n\nNot known: no debugfs\n", b.String())

	b.Reset()
	yes, no := true, false
	a.inspection("vms", "d", &client.Inspection{
		Granted: []client.Queued{queued(1, 2, "EX", "")}, Waiting: []client.Queued{queued(5, 1, "",
			"PR")}, Master: 2, Complete: &no,
		Holder: &client.Holder{Node: 2, Mode: "EX", Token: 7, Who: "vm2"}, ValueInvalid: &yes,
		Health: client.Health{Stopped: &yes, Quorate: &no, Reason: "fencing node 2"},
		Lost:   []client.Lost{{LockID: 4, Mode: "EX", When: time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local), Reason: "gone"}},
	}, nil)
	require.Equal(t, `vms/d: held by vm2 (node 2, EX); 1 waiting; `+
		`the lockspace is STOPPED: fencing node 2; the cluster has NO QUORUM

What the lock manager shows (this node's locks; node 2 has the rest):
QUEUE    NODE  LOCKID  MODE
granted  2     1       EX
waiting  1     5       ->PR

Last holder to write the lock value block: vm2, node 2, EX, token 7

The lock value block is not valid: a node died holding the lock.

LOST: lockid 4 EX, owner -, at 2026-01-02 03:04:05: gone
`, b.String())
}

// The names of the nodes stand beside their numbers, as far as they are known.
func TestInspectionWithNames(t *testing.T) {
	var b bytes.Buffer
	a := &app{printer: printer{out: &output{to: &b}, err: &b}}
	no := false
	a.inspection("vms", "d", &client.Inspection{
		Granted: []client.Queued{queued(1, 2, "PR", ""), queued(4, 3, "PR", ""), queued(6, 4, "PR", "")},
		Waiting: []client.Queued{queued(5, 1, "", "EX")}, Master: 2, Complete: &no,
		Holder: &client.Holder{Node: 2, Mode: "PR", Token: 7, Who: "vm2"},
		Waits: []client.Wait{{Node: 1, LockID: 5, Mode: "EX", Who: "web", ForNode: 2, ForID: 1, ForMode: "PR"},
			{Node: 1, LockID: 5, Mode: "EX", Who: "web", ForNode: 4, ForID: 6, ForMode: "PR"}},
	}, nodeNames{1: "alpha", 2: "beta", 3: "ga\x1bmma"})
	require.Equal(t, `vms/d: held by vm2 (node 2, beta, PR), node 3 (ga\x1bmma, PR), node 4 (PR); 1 waiting

What the lock manager shows (this node's locks; node 2 (beta) has the rest):
QUEUE    NODE  LOCKID  MODE  NAME
granted  2     1       PR    beta
granted  3     4       PR    ga\x1bmma
granted  4     6       PR    -
waiting  1     5       ->EX  alpha

Who waits for whom:
web (node 1, alpha, EX) waits for node 2 (beta, PR)
web (node 1, alpha, EX) waits for node 4 (PR)

Last holder to write the lock value block: vm2, node 2 (beta), PR, token 7
`, b.String())

	b.Reset()
	a.status(map[string]any{"NodeID": uint32(1), "Nodes": map[uint32]string{2: "beta", 1: "alpha"}})
	require.Equal(t, "NodeID:           1\nNodes:            1 (alpha), 2 (beta)\n", b.String())
	b.Reset()
	a.status(map[string]any{"Nodes": map[uint32]string{}})
	require.Equal(t, "Nodes:            -\n", b.String())
}

func TestTreeWithNames(t *testing.T) {
	names := nodeNames{1: "alpha", 2: "be\x1bta"}
	forest := growForest([]waitOn{
		names.wait("vms", "d", client.Wait{Node: 1, LockID: 5, Mode: "EX", Who: "web", ForNode: 2, ForID: 1, ForMode: "PR"}),
		names.wait("vms", "d", client.Wait{Node: 3, LockID: 6, Mode: "EX", Who: "db", ForNode: 1, ForID: 5, ForMode: "EX",
			ForWho: "web"}),
	})
	var b bytes.Buffer
	forest.write(&b)
	require.Equal(t, `somebody on node 2 (be\x1bta)
└─ web (node 1, alpha) waits for vms/d EX, held in PR
   └─ db (node 3) waits for vms/d EX, behind EX in the queue
`, b.String())
}

// The JSON of commands that show nodes has their names, where they are known.
func TestNamesInJSON(t *testing.T) {
	names := nodeNames{1: "alpha", 2: "beta"}
	wait := client.Wait{Node: 1, LockID: 5, Mode: "EX", ForNode: 2, ForID: 1, ForMode: "PR"}
	write := func(v any) string {
		var b bytes.Buffer
		require.NoError(t, (&printer{out: &output{to: &b}}).printJSON(v))
		return b.String()
	}
	tree := write([]waitOn{names.wait("vms", "d", wait)})
	requireConform(t, "tree", tree)
	require.Contains(t, tree, `"for_node_name": "beta"`)
	in := client.Inspection{Locks: []client.Lock{}, Lost: []client.Lost{}, Waits: []client.Wait{wait}}
	requireConform(t, "inspect", write(inspected{in, names}))
	require.Contains(t, write(inspected{in, names}), `"2": "beta"`)
	require.NotContains(t, write(inspected{in, nil}), "names")
	requireConform(t, "status", write(properties(map[string]any{"Version": "1", "Engine": "dlm", "LockCount": uint32(0),
		"Nodes": map[uint32]string(names)})))
	require.NotContains(t, properties(map[string]any{"Nodes": map[uint32]string{}}), "nodes")
}
