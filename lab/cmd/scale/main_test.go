package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	numbers  = "../../scale/data"
	pictures = "../../../docs/pictures"
)

// The pictures in the documents are drawn from the numbers that are in the repository.
func TestPicturesAreOfTheNumbers(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, run([]string{"plots", numbers, dir}))
	drawn, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	require.NoError(t, err)
	require.NotEmpty(t, drawn)
	kept, err := filepath.Glob(filepath.Join(pictures, "scale-*.svg"))
	require.NoError(t, err)
	require.Len(t, kept, len(drawn))
	for _, file := range drawn {
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(pictures, filepath.Base(file)))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "%s is not up to date: make scale-plots", file)
	}
}

// The computed numbers have a row for each cluster, and are the same each time.
func TestModelIsReproducible(t *testing.T) {
	dir := t.TempDir()
	var texts [2][]byte
	for i := range texts {
		file := filepath.Join(dir, "model.csv")
		require.NoError(t, model(t.Context(), file, 500))
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		texts[i] = text
	}
	require.Equal(t, string(texts[0]), string(texts[1]))
	small, err := read(filepath.Join(dir, "model.csv"))
	require.NoError(t, err)
	large, err := read(filepath.Join(numbers, "model.csv"))
	require.NoError(t, err)
	require.Equal(t, small.columns, large.columns)
	require.Len(t, large.rows, len(small.rows))
	for i, row := range large.rows {
		require.Equal(t, float64(resources), large.number(row, "resources"))
		// What does not depend on the number of resources.
		for _, column := range []string{"nodes", "locks on each", "status messages", "status bytes"} {
			require.Equal(t, small.number(small.rows[i], column), large.number(row, column), column)
		}
		require.InDelta(t, small.number(small.rows[i], "taken 2 trips"), large.number(row, "taken 2 trips"), 0.1)
	}
}

func TestUsage(t *testing.T) {
	require.ErrorContains(t, run(nil), "usage")
	require.ErrorContains(t, run([]string{"plots", "x"}), "usage")
	require.Error(t, run([]string{"plots", t.TempDir(), t.TempDir()}))
}
