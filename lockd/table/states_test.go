package table

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The package's documentation draws every state of a lock and of a lockspace in which a turn may end.
func TestStatesAreDrawn(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	require.NoError(t, err)
	locks, spaces, ok := strings.Cut(string(doc), "// The states of a lockspace")
	require.True(t, ok)
	for file, drawn := range map[string]string{"lock.go": locks, "lockspace.go": spaces} {
		drawn = strings.ToLower(drawn)
		constant := regexp.MustCompile(`(?m)^\t(lock|space)([A-Z]\w*)(?: \w+ = iota)?$`)
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		states := constant.FindAllStringSubmatch(string(text), -1)
		require.Greater(t, len(states), 8)
		for _, s := range states {
			words := regexp.MustCompile(`[A-Z][a-z]*`).FindAllString(s[2], -1)
			name := strings.ToLower(strings.Join(words, " "))
			if name != "new" && name != "closed" { // no turn ends in those
				require.Contains(t, drawn, name, "%s%s", s[1], s[2])
			}
		}
	}
}

// Each state of a lockspace has an entry that says what it is for others, and they fit together: what is
// ready or stalled has a handle, and what has failed has none.
func TestSpaceStates(t *testing.T) {
	require.Len(t, spaceStates, int(spaceStalled)+1)
	for s := range spaceStates {
		state := spaceState(s)
		if state != spaceChecking { // as before
			require.NotZero(t, spaceStates[s].public, "state %d", s)
		}
		if spaceStates[s].public == api.SpaceReady {
			require.True(t, state.open(), "state %d", s)
		}
		if state.idle() && state != spaceNew {
			require.Contains(t, []spaceState{spaceReady, spaceFailed, spaceStalled}, state)
		}
	}
	require.False(t, spaceFailed.open())
	require.True(t, spaceStalled.open())
}
