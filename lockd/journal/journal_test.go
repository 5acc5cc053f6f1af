package journal

import (
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/state"
)

// countJournal remembers the IDs in the order in which they are written.
type countJournal struct{ ids []uint64 }

func (j *countJournal) Append(changes []state.Change) error {
	for _, c := range changes {
		j.ids = append(j.ids, c.(state.Mark).ID)
	}
	return nil
}

func (*countJournal) Health() error { return nil }
func (*countJournal) Tend()         {}

// Everything that is appended is written once and in order, also what comes
// while a write is under way, and its outcome is told.
func TestJournalKeepsEverything(t *testing.T) {
	to := &countJournal{}
	var called []uint64
	j := New(to, func(ids []uint64, _ error) { called = append(called, ids...) }, func(error) {})
	var wg sync.WaitGroup
	wg.Go(func() { j.Run(func() {}) })
	const n = 20000
	for i := range n {
		j.Add(Entry{ID: uint64(i), Changes: []state.Change{state.Mark{ID: uint64(i)}}})
		j.Work()
	}
	j.Close()
	wg.Wait()
	require.Len(t, to.ids, n)
	for i, id := range to.ids {
		require.EqualValues(t, i, id)
	}
	require.Equal(t, to.ids, called)
}

// fussyJournal has no room for what is in full.
type fussyJournal struct {
	countJournal
	full map[uint64]bool
}

func (j *fussyJournal) Append(changes []state.Change) error {
	for _, c := range changes {
		if j.full[c.(state.Mark).ID] {
			return syscall.ENOSPC
		}
	}
	return j.countJournal.Append(changes)
}

// What does not fit, and is kept to be written later, does not keep the marks of
// other locks; those of the same lock wait behind it.
func TestJournalOvertakes(t *testing.T) {
	to := &fussyJournal{full: map[uint64]bool{1: true}}
	outcome := map[string]error{}
	name := ""
	j := New(to, func(_ []uint64, err error) { outcome[name] = err }, func(error) {})
	put := func(what string, id uint64, p state.Phase) {
		name = what
		j.Write([]Entry{{Must: true, Changes: []state.Change{state.Mark{ID: id, Phase: p}}}})
	}
	put("one", 1, state.Held)
	put("other", 2, state.Releasing)
	put("one again", 1, state.Releasing)
	put("another", 3, state.Gone)
	require.ErrorIs(t, outcome["one"], syscall.ENOSPC)
	require.ErrorIs(t, outcome["one again"], syscall.ENOSPC)
	require.NoError(t, outcome["other"])
	require.NoError(t, outcome["another"])
	require.Equal(t, []uint64{2, 3}, to.ids)
	to.full = nil
	j.Tend()
	require.Equal(t, []uint64{2, 3, 1, 1}, to.ids)
	require.Empty(t, j.backlog)
}
