package lockd

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
// while a write is under way, and each then is called.
func TestJournalKeepsEverything(t *testing.T) {
	to := &countJournal{}
	var called int
	j := newJournal(to, func(fn func()) bool { fn(); return true }, func(error) {})
	var wg sync.WaitGroup
	wg.Go(j.run)
	const n = 20000
	for i := range n {
		j.append(appendAction{changes: []state.Change{state.Mark{ID: uint64(i)}}, then: func(error) { called++ }})
	}
	j.close()
	wg.Wait()
	require.Len(t, to.ids, n)
	for i, id := range to.ids {
		require.EqualValues(t, i, id)
	}
	require.Equal(t, n, called)
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
	j := newJournal(to, func(fn func()) bool { fn(); return true }, func(error) {})
	put := func(name string, id uint64, p state.Phase) {
		j.write([]appendAction{{must: true, changes: []state.Change{state.Mark{ID: id, Phase: p}}, then: func(err error) { outcome[name] = err }}})
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
	j.tend()
	require.Equal(t, []uint64{2, 3, 1, 1}, to.ids)
	require.Empty(t, j.backlog)
}
