package dbus

import (
	"encoding/xml"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/data"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// A lock is an object from the grant to the release: everybody reads it, its
// user and who may release others' convert and release it.
func TestLockObject(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, bob, eve := r.dial(testbus.Root), r.dial(member), r.dial(stranger)
		id, path := bob.acquire("r é", opt("owner", "vm1", "label", "disk"))
		lock := bob.at(path)
		props := eve.at(path).all(lockIfaceName)
		require.NotZero(t, props["Since"].Value())
		require.NotZero(t, props["PID"].Value())
		want := map[string]any{"Lockspace": "vms", "Resource": "r é", "LockID": id, "Mode": "EX", "Wanted": "",
			"State": "held", "Token": props["Token"].Value(), "OnLost": "", "Owner": "vm1", "Label": "disk",
			"Lifetime": "persistent", "UID": member.UID,
			"PID": props["PID"].Value(), "Since": props["Since"].Value()}
		got := map[string]any{}
		for k, v := range props {
			got[k] = v.Value()
		}
		require.Equal(t, want, got)

		var token uint64
		require.NoError(t, lock.ok(lockIfaceName+".Convert", "shared", opt()).Store(&token))
		var mode string
		require.NoError(t, eve.at(path).ok(ifaceProperties+".Get", lockIfaceName, "Mode").Store(&mode))
		require.Equal(t, "PR", mode)
		// In the way of another's, a conversion queues; the mode stays.
		root.ok("Acquire", "vms", "r é", "PR", opt())
		lock.refused(ErrorPrefix+"WouldBlock", lockIfaceName+".Convert", "EX", opt())
		lock.refused(ErrorPrefix+"Timeout", lockIfaceName+".Convert", "EX", opt("wait-usec", uint64(1000)))
		require.Equal(t, "PR", lock.all(lockIfaceName)["Mode"].Value())
	})
}

// What the members of a lock's object refuse.
func TestLockObjectRefusals(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, bob, eve := r.dial(testbus.Root), r.dial(member), r.dial(stranger)
		_, path := bob.acquire("r", opt())
		lock, other := bob.at(path), eve.at(path)
		other.refused(errAccessDenied, lockIfaceName+".Release", opt())
		other.refused(errAccessDenied, lockIfaceName+".Convert", "NL", opt())
		lock.refused(ErrorPrefix+"InvalidMode", lockIfaceName+".Convert", "XX", opt())
		lock.refused(errInvalidArgs, lockIfaceName+".Convert", "NL", opt("owner", "x"))
		lock.refused(errInvalidArgs, lockIfaceName+".Release", opt("owner", "x"))
		lock.refused(errUnknownInterface, ifaceProperties+".GetAll", Name)
		lock.refused(errUnknownProperty, ifaceProperties+".Get", lockIfaceName, "Nothing")
		lock.refused(errReadOnly, ifaceProperties+".Set", lockIfaceName, "Mode", godbus.MakeVariant("NL"))
		require.Empty(t, lock.ok(ifaceProperties+".GetAll", ifacePeer).Body[0])

		lock.ok(lockIfaceName+".Convert", "PR", opt())
		_, second := root.acquire("other", opt())
		require.Equal(t, errUnknownObject,
			lock.at(path+"0").call(lockIfaceName+".Release", opt()).Err.(godbus.Error).Name)
		root.at(path).ok(lockIfaceName+".Release", opt())
		for _, m := range []string{lockIfaceName + ".Release", lockIfaceName + ".Convert", ifaceProperties + ".GetAll",
			ifaceIntrospectable + ".Introspect"} {
			args := map[string][]any{lockIfaceName + ".Release": {opt()}, lockIfaceName + ".Convert": {"NL", opt()},
				ifaceProperties + ".GetAll": {lockIfaceName}}[m]
			lock.refused(errUnknownObject, m, args...)
		}

		// What waits is no object yet.
		waits := bob.request("other", opt())
		rows := bob.list(opt("state", "acquiring"))
		require.Len(t, rows, 1)
		bob.at(rows[0].Lock).refused(errUnknownObject, ifaceProperties+".GetAll", lockIfaceName)
		root.at(second).ok(lockIfaceName+".Release", opt())
		granted := func() bool { return len(bob.list(opt("state", "held"))) == 1 } // which is written down first
		require.Eventually(t, granted, patience, time.Millisecond)
		bob.at(rows[0].Lock).all(lockIfaceName)
		require.Equal(t, rows[0].Lock, bob.at(waits).all(requestIfaceName)["Lock"].Value())
	})
}

// "Could not look" is not "is not there": whoever asks for a lock's object while
// the service ends must not take it for released.
func TestLockObjectOfAnEndingService(t *testing.T) {
	r := newRig(t, testbus.Start(t, testbus.Daemon), rigConfig{})
	root := r.dial(testbus.Root)
	_, path := root.acquire("r", opt())
	r.api.ending.Store(true)
	root.at(path).refused(ErrorPrefix+"ShuttingDown", ifaceProperties+".GetAll", lockIfaceName)
	r.api.ending.Store(false)
	root.at(path).all(lockIfaceName)
}

// Calls of one caller keep their order also where an object is between them: a
// release that nobody waited for is not overtaken.
func TestObjectOrder(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		c := newRig(t, b, rigConfig{}).dial(testbus.Root)
		_, lock := c.acquire("r", opt())
		for range 100 {
			released, acquired := make(chan *godbus.Call, 1), make(chan *godbus.Call, 1)
			c.at(lock).obj.Go(lockIfaceName+".Release", 0, released, opt())
			c.obj.Go(Name+".Acquire", 0, acquired, "vms", "r", "EX", opt())
			require.NoError(t, receive(t, released).Err)
			var lockid uint32
			var token uint64
			require.NoError(t, receive(t, acquired).Store(&lockid, &token, &lock))
		}
	})
}

// A lockspace is an object, with what is known of its health; what is not known
// is said so, here and in the dictionaries of the root members.
func TestLockspaceObject(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, eve := r.dial(testbus.Root), r.dial(stranger)
		root.ok("JoinLockspace", "my-vms.1", opt())
		path := spacePath("my-vms.1")
		require.Equal(t, godbus.ObjectPath(LockspacePrefix+"my_2dvms_2e1"), path)
		root.ok("Acquire", "my-vms.1", "r", "EX", opt())
		var rows []spaceRow
		require.NoError(t, eve.ok("ListLockspaces").Store(&rows))
		require.Equal(t, path, rows[0].Details["object"].Value())
		require.Eventually(t, func() bool { return eve.at(path).all(lockspaceIfaceName)["Quorate"].Value() == "yes" },
			patience, patience/1000)
		props := eve.at(path).all(lockspaceIfaceName)
		require.Equal(t, []any{"my-vms.1", "ready", "", "no", "", []uint32{1}, uint32(1)}, []any{
			props["Name"].Value(), props["State"].Value(), props["Error"].Value(), props["Stopped"].Value(),
			props["Reason"].Value(), props["Members"].Value(), props["LockCount"].Value()})

		r.cluster.Stop("my-vms.1", "fencing node 2")
		require.Eventually(t, func() bool { return eve.at(path).all(lockspaceIfaceName)["Stopped"].Value() == "yes" },
			patience, patience/1000)
		require.Equal(t, "fencing node 2", eve.at(path).all(lockspaceIfaceName)["Reason"].Value())
		r.cluster.Resume("my-vms.1")
		require.Eventually(t, func() bool { return eve.at(path).all(lockspaceIfaceName)["Stopped"].Value() == "no" },
			patience, patience/1000)

		require.Equal(t, errAccessDenied, eve.at(path).call(lockspaceIfaceName+".Leave", opt()).Err.(godbus.Error).Name)
		root.at(path).refused(ErrorPrefix+"LockspaceInUse", lockspaceIfaceName+".Leave", opt())
		root.at(path).ok(lockspaceIfaceName+".Leave", opt("force", true))
		root.at(path).refused(errUnknownObject, ifaceProperties+".GetAll", lockspaceIfaceName)
	})
}

// What is not known of a lockspace's health is left out of dictionaries, and
// "unknown" in properties.
func TestUnknownHealth(t *testing.T) {
	for _, c := range []struct {
		name             string
		info             api.LockspaceInfo
		stopped, quorate string
	}{
		{"nothing", api.LockspaceInfo{}, "unknown", "unknown"},
		{"not the quorum", api.LockspaceInfo{HasHealth: true}, "no", "unknown"},
		{"all", api.LockspaceInfo{HasHealth: true, Health: dlm.Health{Known: true, Stopped: true}}, "yes", "no"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Equal(t, c.stopped, lockspaceIface.property("Stopped").get(nil, &c.info))
			require.Equal(t, c.quorate, lockspaceIface.property("Quorate").get(nil, &c.info))
			in := api.Inspection{HasHealth: c.info.HasHealth, Health: c.info.Health}
			for _, d := range []options{spaceDetails(&c.info), inspection(&in)} {
				_, stopped := d["stopped"]
				_, quorate := d["quorate"]
				require.Equal(t, []bool{c.stopped != "unknown", c.quorate != "unknown"}, []bool{stopped, quorate})
			}
		})
	}
}

// managed is one object in GetManagedObjects: its interfaces and properties.
type managed = map[string]map[string]godbus.Variant

// Two names are two paths, a path is one name, and every path is valid.
func TestEscape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := string(rapid.SliceOfN(rapid.Byte(), 1, 70).Draw(t, "name"))
		require.True(t, godbus.ObjectPath("/"+escape(a)).IsValid())
		back, ok := unescape(escape(a))
		require.True(t, ok)
		require.Equal(t, a, back)
		// What reads as a name is that name's only path.
		id := rapid.StringMatching(`[a-zA-Z0-9_]{1,20}`).Draw(t, "id")
		if name, ok := unescape(id); ok {
			require.Equal(t, id, escape(name))
		}
	})
	require.Equal(t, "_31_5fa1", escape("1_a1"))
}

// ObjectManager lists everything that is an object, up to its bound.
func TestManagedObjects(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		limits := api.DefaultLimits()
		limits.PageSize = 2 * MaxListed
		r := newRig(t, b, rigConfig{limits: limits})
		root, eve := r.dial(testbus.Root), r.dial(stranger)
		list := func() (all map[godbus.ObjectPath]managed) {
			require.NoError(t, eve.ok(ifaceManager+".GetManagedObjects").Store(&all))
			return all
		}
		require.Equal(t, []godbus.ObjectPath{spacePath("vms")}, slices.Collect(maps.Keys(list())))
		_, lock := root.acquire("r", opt())
		request := root.request("r", opt())
		all := list()
		require.Len(t, all, 3)
		require.Equal(t, map[string]options{lockIfaceName: root.at(lock).all(lockIfaceName)}, all[lock])
		position := all[request][requestIfaceName]["Position"].Value()
		require.Equal(t, uint32(1), position)
		second := root.request("r", opt())
		require.Equal(t, uint32(2), list()[second][requestIfaceName]["Position"].Value())
		root.at(second).ok(requestIfaceName + ".Cancel")
		require.Equal(t, "waiting", all[request][requestIfaceName]["State"].Value())
		require.Equal(t, "ready", all[spacePath("vms")][lockspaceIfaceName]["State"].Value())

		many := make([]wantRow, MaxListed)
		for i := range many {
			many[i] = wantRow{"vms", fmt.Sprint(i), "EX"}
		}
		root.ok("AcquireMany", many, opt())
		before := r.server.bus.wire.wrote.Load()
		all = list()
		require.Less(t, r.server.bus.wire.wrote.Load()-before, uint64(MaxManaged+4096))
		require.Greater(t, len(all), MaxListed/4)
		for _, path := range []godbus.ObjectPath{lock, request, spacePath("vms")} {
			require.Contains(t, all, path, "the oldest are listed")
		}
	})
}

// Introspection leads to every object: each lists what is below it, and an
// object serves its file as it is.
func TestIntrospectObjects(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root := r.dial(testbus.Root)
		_, lock := root.acquire("r", opt())
		request := root.request("r", opt())
		texts := map[string]string{}
		var walk func(path string)
		walk = func(path string) {
			text := introspect(t, root, path)
			texts[path] = text
			var n xmlNode
			require.NoError(t, xml.Unmarshal([]byte(text), &n))
			for _, child := range n.Nodes {
				walk(strings.TrimSuffix(path, "/") + "/" + child.Name)
			}
		}
		walk("/")
		require.Len(t, texts, 12)
		require.Equal(t, data.LockIntrospection, texts[string(lock)])
		require.Equal(t, data.RequestIntrospection, texts[string(request)])
		require.Equal(t, data.LockspaceIntrospection, texts[string(spacePath("vms"))])
	})
}

// Who may not look sees no object.
func TestObjectsForbidden(t *testing.T) {
	b := testbus.Start(t, testbus.Daemon)
	r := newRig(t, b, rigConfig{auth: blind{}})
	root, eve := r.dial(testbus.Root), r.dial(stranger)
	_, lock := root.acquire("r", opt())
	for _, p := range []godbus.ObjectPath{lock, spacePath("vms"), root.request("r", opt())} {
		eve.at(p).refused(errAccessDenied, ifaceIntrospectable+".Introspect")
		eve.at(p).refused(errAccessDenied, ifaceProperties+".GetAll", "org.freedesktop.DBus.Peer")
		parent := p[:strings.LastIndexByte(string(p), '/')]
		eve.at(parent).refused(errAccessDenied, ifaceIntrospectable+".Introspect")
	}
	eve.refused(errAccessDenied, ifaceManager+".GetManagedObjects")
	eve.refused(errAccessDenied, "Subscribe")
}
