package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

// contents is what a crash left: locks in every phase, lockspaces in every
// phase.
func contents() state.Contents {
	lock := func(space, resource string, id dlm.LockID, p state.Phase) state.Lock {
		return state.Lock{Lockspace: space, Resource: resource, LockID: id, Mode: dlm.EX, Phase: p}
	}
	return state.Contents{
		Header: state.Header{BootID: "this"},
		Locks: []state.Lock{
			lock("vms", "held", 2, state.Held), lock("vms", "releasing", 7, state.Releasing),
			lock("vms", "granted", 8, state.Granted),
			lock("new", "held", 2, state.Held), lock("old", "held", 2, state.Held),
		},
		Spaces: []state.Lockspace{
			{Name: "new", Phase: state.Creating}, {Name: "old", Phase: state.Leaving},
			{Name: "vms", Phase: state.Joined, AnchorID: 1},
		},
	}
}

func TestRestoreWhatWasPersistent(t *testing.T) {
	e := local.New("host")
	restore(e, contents(), "this", "inst", slog.New(slog.DiscardHandler))
	spaces, err := e.Lockspaces(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"vms"}, spaces, "one that was being made or left is not there")
	orphans, err := e.Orphans(t.Context(), "vms")
	require.NoError(t, err)
	require.Equal(t, []dlm.Orphan{
		{LockID: 1, Resource: api.AnchorName("inst"), Mode: dlm.NL},
		{LockID: 2, Resource: "held", Mode: dlm.EX},
		{LockID: 7, Resource: "releasing", Mode: dlm.EX},
	}, orphans, "a lock of phase granted ended with the process")
}

// The kernel keeps a lock whose record is damaged, as an orphan; this engine does not.
func TestRestoreTellsOfDamage(t *testing.T) {
	c := contents()
	c.Damage, c.Quarantined = []state.Damage{{Offset: 400, Length: 17}}, "state.toml.corrupt-1"
	var log bytes.Buffer
	restore(local.New("host"), c, "this", "inst", slog.New(slog.NewTextHandler(&log, nil)))
	require.Contains(t, log.String(), "level=ERROR")
	require.Contains(t, log.String(), "pieces=1 kept=state.toml.corrupt-1")
	log.Reset()
	restore(kernelLike{}, c, "this", "inst", slog.New(slog.NewTextHandler(&log, nil)))
	require.Empty(t, log.String())
}

func TestRestoreNothingOfAnotherBoot(t *testing.T) {
	e := local.New("host")
	restore(e, contents(), "another", "inst", slog.New(slog.DiscardHandler))
	spaces, err := e.Lockspaces(t.Context())
	require.NoError(t, err)
	require.Empty(t, spaces)
}

func TestRestoreSaysWhatItCanNot(t *testing.T) {
	c := contents()
	c.Locks = append(c.Locks, state.Lock{Lockspace: "vms", Resource: "held", LockID: 9, Mode: dlm.PR,
		Phase: state.Held})
	var log bytes.Buffer
	e := local.New("host")
	restore(e, c, "this", "inst", slog.New(slog.NewTextHandler(&log, nil)))
	require.Contains(t, log.String(), "not every recorded lock can be restored")
	orphans, err := e.Orphans(t.Context(), "vms")
	require.NoError(t, err)
	require.Len(t, orphans, 3, "the others are there")
}

// An engine that keeps its locks itself is not given them again.
func TestRestoreIsForTheLocalEngineOnly(t *testing.T) {
	restore(kernelLike{}, contents(), "this", "inst", slog.New(slog.DiscardHandler))
}

type kernelLike struct{ dlm.Engine } // nil: any call would panic

func (kernelLike) Lockspaces(context.Context) ([]string, error) { panic("touched") }

// The anchor that restore puts back is the one that the service looks for.
func TestAnchorNameIsTheServices(t *testing.T) {
	e := local.New("host")
	s := lockd.New(lockd.Config{Engine: e, Journal: discardJournal{}, Instance: "inst", BootID: "this",
		Lockspaces: []string{"vms"}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	<-s.Ready()
	q, err := e.Queues(t.Context(), "vms", api.AnchorName("inst"))
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, err)
	require.Len(t, q.Granted, 1)
	require.Equal(t, dlm.NL, q.Granted[0].Mode)
}

type discardJournal struct{}

func (discardJournal) Append([]state.Change) error { return nil }
func (discardJournal) Health() error               { return nil }
func (discardJournal) Tend()                       {}

// A lock that turns out to be lost in activation, and a wait for one that is adopted, are reported when
// somebody can receive the signal.
func TestStartupNoticesAreKept(t *testing.T) {
	var told []api.Notice
	h := startupNotices{to: func(n api.Notice) { told = append(told, n) }}
	lost := api.LockLost{Lost: api.Lost{Reason: "x"}}
	blocking := api.BlockingNotice{Blocked: dlm.EX}
	h.notify(lost)
	h.notify(api.StatusChanged{})
	h.notify(blocking)
	require.Empty(t, told)
	h.open()
	require.Equal(t, []api.Notice{lost, blocking}, told, "states are read, not told late")
	h.notify(api.StatusChanged{})
	require.Len(t, told, 3)
}

func TestLimitsOfTheFileWin(t *testing.T) {
	o := options{}
	o.Limits.PageSize, o.Limits.LocksPerCall = 7, 8
	l := limits(o.Limits)
	require.Equal(t, 7, l.PageSize)
	require.Equal(t, 8, l.BatchLocks)
	require.Equal(t, api.DefaultLimits().LocksPerUID, l.LocksPerUID)
}

// The example file states the service's own limits.
func TestExampleFileNamesTheDefaults(t *testing.T) {
	text, err := os.ReadFile("../../data/dlmlockd.toml")
	require.NoError(t, err)
	l := api.DefaultLimits()
	for key, n := range map[string]int{
		"locks-per-uid": l.LocksPerUID, "locks-per-call": l.BatchLocks, "waiting-per-uid": l.WaitingPerUID,
		"owner-bytes": l.OwnerBytes, "label-bytes": l.LabelBytes, "page-size": l.PageSize,
		"processes-per-uid": process.DefaultPerUser,
	} {
		require.Contains(t, string(text), fmt.Sprintf("\n#%s = %d\n", key, n))
	}
}
