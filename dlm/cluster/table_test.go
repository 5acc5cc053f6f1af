package cluster

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// The tables in testdata are of a lockspace of two nodes. Node 1 has EX on vm-disk-1 with a value,
// PR on shared.iso, PW on only-1 and CW on a resource with an odd name. Node 2 has EX on only-2 and
// NL on vm-disk-1, waits for PR on vm-disk-1, and waits to convert PR to EX on shared.iso.
var kernels = []string{"6.1", "6.12"}

const odd = "with space \"q\" \x01\xff"

func openTable(t testing.TB, kernel, node, name string) *os.File {
	f, err := os.Open(filepath.Join("testdata/debugfs", kernel, node, name))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// lookUp finds a resource and returns how often it is in the table.
func lookUp(t testing.TB, kernel, node, name string) (*resource, int) {
	var found *resource
	n := 0
	err := readTable(openTable(t, kernel, node, "foo_all"), func(b []byte) bool { return string(b) == name },
		func(r *resource) bool {
			c := *r
			c.locks = append([]entry(nil), r.locks...)
			found, n = &c, n+1
			return true
		})
	require.NoError(t, err)
	return found, n
}

func TestTableHasEveryResourceOnce(t *testing.T) {
	for _, k := range kernels {
		for node, names := range map[string][]string{
			"node1": {"vm-disk-1", "shared.iso", "only-1", odd},
			"node2": {"vm-disk-1", "shared.iso", "only-2"},
		} {
			for _, name := range names {
				r, n := lookUp(t, k, node, name)
				require.Equal(t, 1, n, "%s %s %q", k, node, name)
				require.Equal(t, name, r.name)
				require.NotEmpty(t, r.locks)
			}
		}
	}
}

func TestQueuesOfTheMaster(t *testing.T) {
	for _, k := range kernels {
		t.Run(k, func(t *testing.T) {
			r, _ := lookUp(t, k, "node1", "vm-disk-1")
			q := r.queues(1)
			var value dlm.Value
			copy(value[:], "holder=node1;tok=7")
			require.Equal(t, dlm.Queues{
				Master: 1, Complete: true, HasValue: true, Value: value,
				Granted: []dlm.Held{{LockID: 6, Node: 2, Mode: dlm.NL, Wanted: dlm.None},
					{LockID: 1, Node: 1, Mode: dlm.EX, Wanted: dlm.None}},
				Waiting: []dlm.Held{{LockID: 5, Node: 2, Mode: dlm.None, Wanted: dlm.PR}},
			}, q)

			r, _ = lookUp(t, k, "node1", "shared.iso")
			q = r.queues(1)
			require.Equal(t, []dlm.Held{{LockID: 2, Node: 1, Mode: dlm.PR, Wanted: dlm.None}}, q.Granted)
			require.Equal(t, []dlm.Held{{LockID: 7, Node: 2, Mode: dlm.PR, Wanted: dlm.EX}}, q.Converting)
			require.False(t, q.HasValue)
		})
	}
}

func TestQueuesElsewhereAreIncompleteAndSaySo(t *testing.T) {
	for _, k := range kernels {
		r, _ := lookUp(t, k, "node2", "vm-disk-1")
		q := r.queues(2)
		require.Equal(t, uint32(1), q.Master)
		require.False(t, q.Complete)
		require.Contains(t, q.Missing, "node 1")
		require.Equal(t, []dlm.Held{{LockID: 2, Node: 2, Mode: dlm.NL, Wanted: dlm.None}}, q.Granted)
		require.Equal(t, []dlm.Held{{LockID: 1, Node: 2, Mode: dlm.None, Wanted: dlm.PR}}, q.Waiting)
	}
}

func TestTableStopsEarly(t *testing.T) {
	n := 0
	err := readTable(openTable(t, "6.12", "node1", "foo_all"), func([]byte) bool { return true }, func(*resource) bool {
		n++
		return false
	})
	require.NoError(t, err)
	require.Equal(t, 1, n)

	// Nothing behind the resource is read, so damage there does not matter.
	text := "rsb 1 0 0 0 0 0 0 1 str a\nlkb 1 0 0 7 0 0 0 2 5 -1 0 0 0 1 2 0\nrsb 2 0 0 0 0 0 0 1 str b\nlkb " +
		"rubbish\nrsb rubbish\n"
	found := false
	err = readTable(strings.NewReader(text), func(b []byte) bool { return string(b) == "a" }, func(r *resource) bool {
		found = len(r.locks) == 1 && r.locks[0].granted == dlm.EX
		return false
	})
	require.NoError(t, err)
	require.True(t, found)
}

func TestTableRefusesWhatItDoesNotKnow(t *testing.T) {
	good := "rsb 1 0 0 0 0 0 0 1 str a\n"
	for name, text := range map[string]string{
		"few fields":       "rsb 1 0 0\n",
		"wrong length":     "rsb 1 0 0 0 0 0 0 2 str a\n",
		"name too long":    "rsb 1 0 0 0 0 0 0 65 str " + strings.Repeat("a", 65) + "\n",
		"form of name":     "rsb 1 0 0 0 0 0 0 1 b64 a\n",
		"hex":              "rsb 1 0 0 0 0 0 0 1 hex zz\n",
		"short lock":       good + "lkb 1 0 0 7 0\n",
		"mode":             good + "lkb 1 0 0 7 0 0 0 2 6 -1 0 0 0 1 2 0\n",
		"lockid":           good + "lkb 1ffffffff 0 0 7 0 0 0 2 5 -1 0 0 0 1 2 0\n",
		"value":            good + "lvb 1 32 zz\n",
		"value, few parts": good + "lvb 1\n",
	} {
		err := readTable(strings.NewReader(text), func([]byte) bool { return true },
			func(*resource) bool { return true })
		require.ErrorIs(t, err, errTable, name)
	}
}

func TestMasterOfWhatNobodyHere(t *testing.T) {
	for _, k := range kernels {
		master, ok, err := readMaster(openTable(t, k, "node1", "foo_toss"), "only-2")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, uint32(2), master, k)

		master, ok, err = readMaster(openTable(t, k, "node2", "foo_toss"), odd)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, uint32(1), master, k)

		_, ok, err = readMaster(openTable(t, k, "node2", "foo_toss"), "vm-disk-1")
		require.NoError(t, err)
		require.False(t, ok)
	}
}

func TestOrphansAreTold(t *testing.T) {
	nobody := func(int) bool { return false }
	somebody := func(int) bool { return true }
	holds := func(id dlm.LockID) bool { return id == 4 }
	mine := &resource{master: 0}
	elsewhere := &resource{master: 2}
	p := entry{id: 4, flags: dlm.Persistent, status: granted, granted: dlm.EX}

	old := p
	old.internal = flagUser
	require.False(t, old.isOrphan(mine, nil, nobody), "6.1 says that it is none")
	old.internal |= flagOrphan
	require.True(t, old.isOrphan(mine, nil, somebody), "6.1 says that it is one")

	require.True(t, p.isOrphan(mine, nil, nobody))
	require.True(t, p.isOrphan(elsewhere, nil, nobody))
	require.False(t, p.isOrphan(mine, nil, somebody), "of a live process")
	require.False(t, p.isOrphan(mine, holds, nobody), "the caller's own")

	other := p
	other.node = 2
	require.False(t, other.isOrphan(mine, nil, nobody), "this node keeps it for another")
	other = p
	other.flags = 0
	require.False(t, other.isOrphan(mine, nil, nobody), "not persistent")
}

// FuzzTable gives readTable rubbish: it may refuse, but what it accepts has the form of a lock
// table.
func FuzzTable(f *testing.F) {
	for _, k := range kernels {
		for _, n := range []string{"node1", "node2"} {
			b, err := os.ReadFile(filepath.Join("testdata/debugfs", k, n, "foo_all"))
			require.NoError(f, err)
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		_ = readTable(bytes.NewReader(text), func([]byte) bool { return true }, func(r *resource) bool {
			require.LessOrEqual(t, len(r.name), dlm.MaxResourceName)
			q := r.queues(1)
			require.Equal(t, len(r.locks), len(q.Granted)+len(q.Converting)+len(q.Waiting))
			for _, h := range q.Converting {
				require.LessOrEqual(t, h.Wanted, dlm.EX)
			}
			require.True(t, q.Complete || q.Missing != "", "an incomplete answer says so")
			return true
		})
	})
}

func FuzzMaster(f *testing.F) {
	for _, k := range kernels {
		b, err := os.ReadFile(filepath.Join("testdata/debugfs", k, "node2", "foo_toss"))
		require.NoError(f, err)
		f.Add(b, "only-1")
	}
	f.Fuzz(func(t *testing.T, text []byte, name string) {
		master, ok, err := readMaster(bytes.NewReader(text), name)
		require.True(t, ok || master == 0)
		require.False(t, ok && err != nil)
	})
}

func BenchmarkTable100k(b *testing.B) {
	var text bytes.Buffer
	for i := range 100_000 {
		name := "vm-disk-" + strings.Repeat("x", i%20)
		text.WriteString("rsb 00000000396a4add 0 0 200 0 0 0 ")
		text.WriteString(itoa(len(name)) + " str " + name +
			"\nlkb 2 0 0 208 0 80 0 2 3 -1 5 0 0 0 10799076981 13530799610\n")
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		err := readTable(bytes.NewReader(text.Bytes()), func(n []byte) bool { return string(n) == "absent" },
			func(*resource) bool { return false })
		require.NoError(b, err)
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}
