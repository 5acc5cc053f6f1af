package lockd

import (
	"sync"
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

// Everything that is appended is written once and in order, also what comes
// while a write is under way, and each then is called.
func TestJournalKeepsEverything(t *testing.T) {
	to := &countJournal{}
	var called int
	j := newJournal(to, func(fn func()) bool { fn(); return true }, func() {})
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
