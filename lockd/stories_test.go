package lockd_test

import (
	"flag"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/story"
	"github.com/dlmlock/dlmlockd/internal/story/embedded"
)

var update = flag.Bool("update", false, "write what the stories print into their files")

// TestStories plays the stories of internal/story/testdata that can happen with
// the embedded engine.
func TestStories(t *testing.T) {
	stories, err := story.Load("../internal/story/testdata/stories")
	require.NoError(t, err)
	for _, s := range stories {
		if s.Places&story.Embedded != 0 {
			t.Run(s.Name, func(t *testing.T) { embedded.Play(t, s, *update) })
		}
	}
}
