package scale

import (
	"encoding/csv"
	"encoding/hex"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The kernels of real nodes said which node is the directory of each of these names (make
// bench-scale): names of every length, and lockspaces with and without weights.
func TestDirectoryIsTheKernels(t *testing.T) {
	rows := read(t, "data/directory.csv")
	require.Greater(t, len(rows), 1000)
	directories := map[string]Directory{}
	for _, row := range rows {
		d, ok := directories[row[0]]
		if !ok {
			d = NewDirectory(weighted(t, row[0]))
			directories[row[0]] = d
		}
		name, err := hex.DecodeString(row[1])
		require.NoError(t, err)
		require.Equal(t, row[2], strconv.Itoa(int(d.Node(string(name)))), "weights %s, name %q", row[0], name)
	}
	require.Greater(t, len(directories), 3)
}

// weighted makes members of "1 3 0".
func weighted(t *testing.T, weights string) []Member {
	var all []Member
	for i, w := range strings.Fields(weights) {
		weight, err := strconv.Atoi(w)
		require.NoError(t, err)
		all = append(all, Member{uint32(i + 1), weight})
	}
	return all
}

// read returns the rows of a file with measurements, without its columns' names.
func read(t *testing.T, file string) [][]string {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	r := csv.NewReader(f)
	r.Comment = '#'
	rows, err := r.ReadAll()
	require.NoError(t, err)
	return rows[1:]
}

// In every recovery that was measured the kernels sent as many names and locks as the model says.
func TestRecoveryIsTheKernels(t *testing.T) {
	rows := slices.Concat(read(t, "data/recovery.csv"), read(t, "data/wide.csv"))
	require.Greater(t, len(rows), 15)
	for _, row := range rows {
		require.Equal(t, row[5], row[6], "names: %v", row)
		require.Equal(t, row[7], row[8], "masters: %v", row)
		require.Equal(t, row[9], row[10], "locks: %v", row)
	}
}

func TestDirectoryOfUnsortedAndWeightlessMembers(t *testing.T) {
	for _, name := range []string{"", "a", "twelve bytes", "and thirteen."} {
		sorted := NewDirectory(Members(3)).Node(name)
		require.Equal(t, sorted, NewDirectory([]Member{{3, 1}, {1, 1}, {2, 1}}).Node(name))
		require.Equal(t, sorted, NewDirectory([]Member{{1, 0}, {2, 0}, {3, 0}}).Node(name), "all weights are 0: all count")
		require.Equal(t, uint32(2), NewDirectory([]Member{{1, 0}, {2, 5}}).Node(name))
	}
}

func TestRoundTrips(t *testing.T) {
	for _, c := range []struct {
		directory, master uint32
		want              int
	}{
		{1, 0, 0}, {2, 0, 1}, // free: the first that looks it up is the master
		{1, 1, 0}, {2, 1, 0}, // the asker is the master
		{1, 2, 1}, {2, 2, 1}, {3, 2, 2},
	} {
		r := Request{Asker: 1, Directory: c.directory, Master: c.master}
		require.Equal(t, c.want, r.RoundTrips(), "%+v", r)
		require.Equal(t, c.want*(2*112+10), r.Bytes(10))
	}
}

// A small workload, counted by hand: each of two nodes that remain.
func TestLeaveCounts(t *testing.T) {
	d := NewDirectory(Members(2))
	of := map[uint32]string{}
	for i := range 100 {
		of[d.Node(Name(i))] = Name(i)
	}
	r := Leave(Members(3), 3, []Resource{
		{of[1], 1, []uint32{1}},    // the directory is the master itself
		{of[2], 1, []uint32{1}},    // its name is sent to node 2
		{of[2], 3, []uint32{3}},    // gone with its holder
		{of[2], 3, []uint32{3, 2}}, // node 2 is the directory, and the new master
		{of[1], 3, []uint32{3, 2}}, // node 2 asks node 1, and is the new master
		{of[1], 3, []uint32{3, 2, 1, 2}},
	})
	require.Equal(t, 1, r.DirectoryEntries)
	require.Equal(t, 4, r.Remastered)
	require.Equal(t, 2, r.LocksSent, "node 2 sends both to node 1")
	require.Equal(t, 2*2, r.LookUps.Messages)
	require.Equal(t, 2*2, r.Locks.Messages)
	require.Equal(t, 1, r.NameTrips)
	require.Zero(t, r.GrantSteps, "node 3 had no lock on a resource of another master")
	require.Equal(t, 2*2, r.Names.Messages, "each of two asks the other one once")
	require.Equal(t, 2*(2+4*2), r.Status.Messages)
	require.Equal(t, 2*(24+48+4096), r.Names.Bytes)
	require.Equal(t, r.Status.Bytes+r.Names.Bytes+r.LookUps.Bytes+r.Locks.Bytes, r.Total().Bytes)
}

// Each resource that the lost node shared is searched from the newest one.
func TestGrantSteps(t *testing.T) {
	r := Leave(Members(3), 3, []Resource{
		{"a", 1, []uint32{1, 3}},    // the fourth of node 1
		{"b", 2, []uint32{2, 1, 3}}, // the second of node 2, of which node 1 is not the master
		{"c", 1, []uint32{1, 1}},
		{"d", 1, []uint32{1, 2, 3}},
	})
	require.Equal(t, 4+1, r.GrantSteps)
}

// A reply has room for as many names as fit with their lengths and an end (dlm_copy_master_names).
func TestNamesFillReplies(t *testing.T) {
	d := NewDirectory(Members(2))
	var all []Resource
	for i := 0; len(all) < 119; i++ {
		if name := Name(i); d.Node(name) == 2 {
			all = append(all, Resource{name, 1, []uint32{1}})
		}
	}
	require.Equal(t, 2, Leave(Members(3), 3, all).NameTrips)
	require.Equal(t, 1, Leave(Members(3), 3, all[:118]).NameTrips, "118 * 34 + 2 bytes of 4024 are enough, 119 are not")
}

// The simulated cluster and the model agree on whose locks lose their master.
func TestSimulatedClusterAgrees(t *testing.T) {
	w := Workload{Nodes: 8, Resources: 2000, Sharers: 2, Seed: 1}
	c, err := Place(t.Context(), w)
	require.NoError(t, err)
	before, err := c.Resources(t.Context())
	require.NoError(t, err)
	c.Crash(8)
	after, err := c.Resources(t.Context())
	require.NoError(t, err)
	moved := 0
	for i, r := range before {
		require.Len(t, r.Holders, 2)
		if after[i].Master != r.Master {
			require.Equal(t, uint32(8), r.Master)
			require.Equal(t, []uint32{1}, after[i].Holders, "the neighbour has it alone")
			moved++
		}
	}
	require.Greater(t, moved, 100)
	require.Equal(t, moved, Leave(Members(8), 8, before).Remastered)
}

func TestSummary(t *testing.T) {
	s, err := Summarize(t.Context(), Workload{Nodes: 4, Resources: 4000, Sharers: 1, Seed: 1})
	require.NoError(t, err)
	require.InDelta(t, 0.25, s.Free[0], 0.03)
	require.InDelta(t, 0.75, s.Free[1], 0.03)
	require.InDelta(t, 0.5, s.Taken[1], 0.04)
	require.InDelta(t, 0.5, s.Taken[2], 0.04)
	require.Greater(t, s.DirectoryEntries[0], 900)
	require.Less(t, s.DirectoryEntries[1], 1100)
	require.InDelta(t, 1750, s.Objects.Resources, 100, "a quarter with locks, and 3/16 in the directory alone")
	require.InDelta(t, 1000, s.Objects.Locks, 100)
	require.Zero(t, s.Objects.Copies, "nobody shares anything")
}
