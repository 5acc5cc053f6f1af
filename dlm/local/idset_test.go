package local

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
)

// TestIDSetAgainstList compares the bitmaps with a plain list in random operations.
func TestIDSetAgainstList(t *testing.T) {
	const most = 20_000 // enough for several words of the third level
	rapid.Check(t, func(t *rapid.T) {
		var s idset
		var used [most + 1]bool
		lowest := dlm.LockID(1) // all below are used
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				for range rapid.SampledFrom([]int{1, 1, 1, 70, 5000}).Draw(t, "count") {
					for lowest < most && used[lowest] {
						lowest++
					}
					if lowest == most {
						return
					}
					if id, ok := s.take(); !ok || id != lowest {
						t.Fatalf("got lockid %d, %t; the lowest free one is %d", id, ok, lowest)
					}
					used[lowest] = true
				}
			},
			"release": func(t *rapid.T) {
				id := dlm.LockID(rapid.IntRange(1, most-1).Draw(t, "id"))
				if used[id] {
					s.release(id)
					used[id] = false
					lowest = min(lowest, id)
				}
			},
			"reserve": func(t *rapid.T) {
				id := dlm.LockID(rapid.IntRange(1, most-1).Draw(t, "id"))
				require.Equal(t, !used[id], s.reserve(id))
				used[id] = true
			},
		})
	})
}

func TestIDSetRefusesWhatItCanNotHold(t *testing.T) {
	var s idset
	require.False(t, s.reserve(0), "zero is no lock")
	require.False(t, s.reserve(maxLockID+1))
	require.False(t, s.reserve(1<<32-1))
	require.True(t, s.reserve(maxLockID))
	require.False(t, s.reserve(maxLockID), "twice")
	id, ok := s.take()
	require.True(t, ok)
	require.EqualValues(t, 1, id, "a large reserved lockid does not move the lowest free one")
}

func TestIDSetRunsOut(t *testing.T) {
	var s idset
	for id := dlm.LockID(1); id <= maxLockID; id++ {
		s.set(int(id))
	}
	s.set(0)
	_, ok := s.take()
	require.False(t, ok)
	s.release(70_000)
	id, ok := s.take()
	require.True(t, ok)
	require.EqualValues(t, 70_000, id)
}
