package frontend

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// samples are values of each kind that a door may have.
var samples = map[Kind]any{
	Text: "x", Uint32: uint32(7), Uint64: uint64(7), Microseconds: uint64(7), Flag: true,
	Bytes: []byte{1}, Texts: []string{"x"}, LockRef: api.Ref(7),
}

// checkTable holds what doors rely on: names that differ, values of the Go type
// of the kind, and errors that are api.Errors, those about the value with the
// argument.
func checkTable[T any](t *testing.T, name string, options []Option[T]) {
	seen := map[api.Argument]bool{}
	for i := range options {
		o := &options[i]
		require.False(t, seen[o.Name], "%s: %s", name, o.Name)
		seen[o.Name] = true
		if err := o.Set(new(T), samples[o.Kind]); err != nil {
			var e *api.Error
			require.ErrorAs(t, err, &e, "%s: %s", name, o.Name)
			require.Equal(t, o.Name, e.Argument, "%s", name)
		}
		if o.Kind == Text {
			var e *api.Error
			require.ErrorAs(t, o.Set(new(T), strings.Repeat("x", MaxText+1)), &e, "%s: %s", name, o.Name)
			require.Equal(t, o.Name, e.Argument, "%s", name)
		}
	}
}

func TestOptionTables(t *testing.T) {
	checkTable(t, "acquire", AcquireOptions)
	checkTable(t, "acquire many", AcquireManyOptions)
	checkTable(t, "request", RequestOptions)
	checkTable(t, "convert", ConvertOptions)
	checkTable(t, "release", ReleaseOptions)
	checkTable(t, "release many", ReleaseManyOptions)
	checkTable(t, "list", ListOptions)
	checkTable(t, "list lost", ListLostOptions)
	checkTable(t, "list waits", ListWaitsOptions)
	checkTable(t, "leave", LeaveOptions)
	checkTable(t, "purge", PurgeOptions)
	checkTable(t, "adopt", AdoptOptions)
}

// What a door fills in without the tables is checked as well, and the error says
// which argument is wrong.
func TestValidate(t *testing.T) {
	want := api.Want{Lockspace: "vms", Resource: "r", Mode: dlm.EX}
	acquire := func(o api.AcquireOptions) Method { return &Acquire{want, o} }
	long := strings.Repeat("x", MaxText+1)
	for _, c := range []struct {
		about api.Argument
		kind  api.Kind
		m     Method
	}{
		{"", "", acquire(api.AcquireOptions{})},
		{api.ArgLockspace, api.InvalidName, &Acquire{Want: api.Want{Resource: "r", Mode: dlm.EX}}},
		{api.ArgResource, api.InvalidName, &Release{Lockspace: "vms"}},
		{api.ArgMode, api.InvalidMode, &Convert{Want: api.Want{Lockspace: "vms", Resource: "r", Mode: dlm.None}}},
		{api.ArgOwner, api.InvalidArgs, acquire(api.AcquireOptions{HasOwner: true})},
		{api.ArgOwner, api.InvalidArgs, acquire(api.AcquireOptions{Owner: long, HasOwner: true})},
		{api.ArgLabel, api.InvalidArgs, acquire(api.AcquireOptions{Label: long})},
		{api.ArgWait, api.InvalidArgs, acquire(api.AcquireOptions{Wait: api.MaxWait + time.Second})},
		{api.ArgPID, api.InvalidArgs, acquire(api.AcquireOptions{PID: 7})},
		{api.ArgStartTime, api.InvalidArgs, acquire(api.AcquireOptions{Start: 7, HasStart: true})},
		{"", "", acquire(api.AcquireOptions{PID: 7, Lifetime: state.Process})},
		{api.ArgOnLost, api.InvalidArgs, acquire(api.AcquireOptions{OnLost: &api.OnLost{Data: "x"}})},
		{api.ArgOnLostData, api.InvalidArgs, acquire(api.AcquireOptions{OnLost: &api.OnLost{Helper: "h", Data: long}})},
		{"", api.LimitExceeded, &AcquireMany{Wants: make([]api.Want, MaxLocks+1)}},
		{"", api.LimitExceeded, &ReleaseMany{Resources: make([]api.Want, MaxLocks+1), Owner: "o"}},
		{api.ArgOwner, api.InvalidArgs, &ReleaseMany{}},
		{api.ArgOwner, api.InvalidArgs, &ReleaseOwner{}},
		{api.ArgLimit, api.InvalidArgs, &ListLocks{Filter: api.Filter{Limit: MaxPage + 1}}},
		{api.ArgLimit, api.InvalidArgs, &ListLost{api.Filter{Limit: MaxLost + 1}}},
		{api.ArgReason, api.InvalidArgs, &Leave{Lockspace: "vms", Reason: long}},
		{api.ArgLockIDs, api.InvalidArgs, &Purge{Lockspace: "vms", Expect: make([]dlm.LockID, MaxPurge+1)}},
		{api.ArgLockspace, api.InvalidName, &Join{"a/b"}},
		{api.ArgLockspace, api.InvalidName, &ListOrphans{}},
		{api.ArgOwner, api.InvalidArgs, &AdoptOrphan{Lockspace: "vms", Options: api.AdoptOptions{HasOwner: true}}},
	} {
		err := c.m.Validate()
		if c.kind == "" {
			require.NoError(t, err)
			continue
		}
		var e *api.Error
		require.True(t, errors.As(err, &e), "%T: %v", c.m, err)
		require.Equal(t, []any{c.kind, c.about, c.m.Op()}, []any{e.Kind, e.Argument, e.Op}, "%T: %v", c.m, err)
	}
}
