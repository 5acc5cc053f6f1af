package model

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// rows returns the rows of the table in README.md that begins with a heading.
func rows(t *testing.T, heading string) [][]string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "| "+heading+" |")
	require.True(t, found, heading)
	table, _, _ = strings.Cut(table, "\n\n")
	var out [][]string
	for _, line := range strings.Split(table, "\n")[2:] {
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "|"), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		out = append(out, cells)
	}
	require.NotEmpty(t, out, heading)
	return out
}

// configurations are the options of spin for each configuration.
func configurations(t *testing.T) map[string][]string {
	out := map[string][]string{}
	for _, row := range rows(t, "configuration") {
		out[row[0]] = []string{"-DNODES=" + row[1], "-DRESOURCES=" + row[2], "-DCALLS=" + row[3], "-DCRASHES=" + row[4],
			"-DFAILURES=" + row[5]}
	}
	return out
}

// verify returns what spin's verifier says of the model with some options. Compiling it takes longer than a short
// search, so optimize is for those that go through all there is.
func verify(t *testing.T, optimize string, options ...string) string {
	t.Helper()
	file, err := filepath.Abs("order.pml")
	require.NoError(t, err)
	dir := t.TempDir()
	run := func(name string, args ...string) string {
		_, err := exec.LookPath(name)
		require.NoError(t, err, "apt-get install spin gcc")
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", name, out)
		return string(out)
	}
	run("spin", append([]string{"-a"}, append(options, file)...)...)
	run("gcc", optimize, "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c")
	out := run(filepath.Join(dir, "pan"), "-m1000000", "-w22", "-n")
	require.NotContains(t, out, "max search depth too small")
	require.Contains(t, out, "State-vector", "the search did not come to its end: %s", out)
	return out
}

// The order of events keeps every promise, whatever happens in between.
func TestOrderOfEvents(t *testing.T) {
	for name, options := range configurations(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := verify(t, "-O1", options...)
			require.Contains(t, out, "errors: 0")
			require.NotContains(t, out, "Search not completed")
			t.Log(regexp.MustCompile(`(?m)^ *\d+ states, stored`).FindString(out))
		})
	}
}

// Each mistake is found, and by the promise that README.md names.
func TestMistakesAreFound(t *testing.T) {
	model, err := os.ReadFile("order.pml")
	require.NoError(t, err)
	bugs, err := os.ReadFile("../BUGS.md")
	require.NoError(t, err)
	options := configurations(t)
	var known []string
	for _, row := range rows(t, "mutation") {
		name, configuration, promise, bug := row[0], row[1], row[3], strings.Trim(row[4], `"`)
		known = append(known, name)
		require.Contains(t, options, configuration, name)
		require.Contains(t, string(bugs), bug, "%s: BUGS.md has no such bug", name)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out := verify(t, "-O0", append(slices.Clone(options[configuration]), "-DBUG="+name)...)
			require.Contains(t, out, "assertion violated ("+promise+"||", "%s", out)
		})
	}
	for _, m := range regexp.MustCompile(`BROKEN\((\w+)\)`).FindAllStringSubmatch(string(model), -1) {
		if m[1] != "bug" && m[1] != "name" {
			require.Contains(t, known, m[1], "README.md does not list it")
		}
	}
}

// Every promise of the model is in README.md, and the other way round.
func TestPromisesAreTold(t *testing.T) {
	model, err := os.ReadFile("order.pml")
	require.NoError(t, err)
	var made, told []string
	for _, m := range regexp.MustCompile(`PROMISE\((\w+), [^c]`).FindAllStringSubmatch(string(model), -1) {
		made = append(made, m[1])
	}
	for _, row := range rows(t, "promise") {
		told = append(told, row[0])
	}
	slices.Sort(made)
	slices.Sort(told)
	require.Equal(t, slices.Compact(made), told)
}
