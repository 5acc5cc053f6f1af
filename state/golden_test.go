package state

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// golden compares text with the file of that name, or writes it with -update.
func golden(t *testing.T, name string, text []byte) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(name, text, 0o644))
	}
	want, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, string(want), string(text), "a change of this is a new format (go test ./state -update)")
}

// The format is fixed: what this version writes is what every version of the format has written,
// and can be read.
func TestGolden(t *testing.T) {
	text, _, h := sampleFile()
	golden(t, "testdata/format-2.toml", text)
	l, err := load(bytes.NewReader(text), int64(len(text)), false)
	require.NoError(t, err)
	locks, spaces := sampleContents()
	require.Equal(t, Contents{Header: h, Locks: locks, Spaces: spaces, NextID: 5}, l.Contents)
}

// A file of the first format, as an upgraded service leaves it, is read, and goes on as one of this
// format with the same instance.
func TestFirstFormat(t *testing.T) {
	text, err := os.ReadFile("testdata/format-1.toml")
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(stateOf(dir), text, 0o600))
	f, c := mustOpen(t, dir, testOptions())
	require.Empty(t, c.Damage)
	require.Equal(t, 1, c.Header.Format)
	require.Len(t, c.Locks, 3)
	require.Equal(t, dlm.EX, c.Locks[1].Mode, "the second mark counts")
	require.Equal(t, c.Header.Instance, f.Header().Instance)
	_, again := reopen(t, f, testOptions())
	require.Equal(t, format, again.Header.Format)
	require.Equal(t, c.Locks, again.Locks)
	require.Equal(t, c.Spaces, again.Spaces)
	require.Equal(t, c.NextID, again.NextID)
}

// TestGolden10k does the same with the life of 10,000 records, of which only the sum is kept: first
// of the file, then of the file after a compaction.
func TestGolden10k(t *testing.T) {
	_, _, h := sampleFile()
	text := appendHeader(nil, h, 1)
	for _, c := range longLife(10_000) {
		text = appendChange(text, c)
	}
	l, err := load(bytes.NewReader(text), int64(len(text)), false)
	require.NoError(t, err)
	require.Empty(t, l.Damage)
	require.Equal(t, 10_000, l.found)
	var folded bytes.Buffer
	_, err = writeContents(&folded, h, &l.Contents)
	require.NoError(t, err)
	sums := fmt.Appendf(nil, "%x %d bytes\n%x %d bytes, %d locks\n", sha256.Sum256(text), len(text),
		sha256.Sum256(folded.Bytes()), folded.Len(), len(l.Locks))
	golden(t, "testdata/format-2-10k.sum", sums)
}

// longLife makes n changes, the same in every run.
func longLife(n int) (changes []Change) {
	r := rand.New(rand.NewPCG(1, 2))
	var held []uint64
	id := uint64(0)
	for len(changes) < n {
		switch k := r.IntN(10); {
		case k < 4 || len(held) == 0:
			id++
			l := aLock(id)
			l.Mode, l.Lifetime = dlm.Modes[r.IntN(6)], Lifetime(r.IntN(3))
			if r.IntN(10) == 0 {
				l.Resource = string([]byte{byte(r.IntN(256)), byte(r.IntN(256))})
			}
			if r.IntN(4) == 0 {
				l.OnLost, l.OnLostData = "libvirt", "qemu:///system pause"
			}
			l.Since = aTime.Add(time.Duration(r.IntN(1e9)) * time.Microsecond)
			changes, held = append(changes, l), append(held, id)
		case k < 7:
			changes = append(changes, Mark{ID: held[r.IntN(len(held))], Phase: Phase(1 + r.IntN(3))})
		case k < 8:
			changes = append(changes, Mark{ID: held[r.IntN(len(held))], HasMode: true, Mode: dlm.Modes[r.IntN(6)],
				Token: r.Uint64()})
		case k < 9:
			i := r.IntN(len(held))
			changes = append(changes, Mark{ID: held[i], Phase: Gone})
			held = append(held[:i], held[i+1:]...)
		default:
			changes = append(changes, Lockspace{Name: fmt.Sprintf("space%d", r.IntN(50)),
				Phase: SpacePhase(1 + r.IntN(4)), AnchorID: dlm.LockID(r.IntN(3))})
		}
	}
	return changes
}

const docFile = "../docs/state-file.md"

var docExample = regexp.MustCompile("(?s)```toml\n(.*?)```")

// The example in the documentation is what the encoder writes and the loader
// reads.
func TestDocumentedExample(t *testing.T) {
	doc, err := os.ReadFile(docFile)
	require.NoError(t, err)
	at := docExample.FindSubmatchIndex(doc)
	require.NotNil(t, at, "no example")
	h := Header{
		Format: format, BootID: "0c6f2a52-6d5b-4b6e-a4a6-7d1f5a0f8a11", NodeID: 1, Cluster: "vms", Engine: "dlm",
		Instance: "9b1f0c6e4a7d4f2e8c3b5a6978d0e1f2", Created: aTime,
	}
	text := appendHeader(nil, h, 41)
	lostLock := Lock{
		ID: 43, Lockspace: "vms", Resource: "disk2", LockID: 4, Mode: dlm.EX, Phase: Lost, Token: 18, UID: 0, PID: 2317,
		PIDStart: 88123,
		Owner:    "7d1f5a0f-8a11-4b6e-a4a6-0c6f2a526d5b/2317/88123", HasOwner: true, Lifetime: Process,
		Since:  aTime.Add(95 * time.Second),
		OnLost: "libvirt", OnLostData: "qemu:///system pause", Reason: "another process on this node unlocked it",
	}
	for _, c := range []Change{
		Lockspace{Name: "vms", Phase: Joined, AnchorID: 1},
		Lock{
			ID: 41, Lockspace: "vms", Resource: "disk1", LockID: 2, Mode: dlm.EX, Phase: Granted, Token: 17,
			Owner: "5f3c1f9e-66f0-4a9b-8f6d-2f8a3f1f0c11", HasOwner: true, Label: "/var/lib/libvirt/images/disk1.qcow2",
			UID: 0, PID: 2210, Session: ":1.42", SessionBus: "3e8a5d0f7c1b4e6299a0b1c2d3e4f506",
			Since: aTime.Add(93 * time.Second),
		},
		Mark{ID: 41, Phase: Held},
		Lock{ID: 42, Lockspace: "vms", Resource: "\x01\xfe", LockID: 3, Mode: dlm.PR, Phase: Granted, Lifetime: Process,
			UID: 107, PID: 2317, PIDStart: 88123, Since: aTime.Add(94 * time.Second)},
		Mark{ID: 42, Phase: Held},
		lostLock,
		Mark{ID: 41, Mode: dlm.PR, Token: 17, HasMode: true},
		Mark{ID: 42, Phase: Releasing},
		Mark{ID: 42, Phase: Gone},
	} {
		text = appendChange(text, c)
	}
	if *update {
		doc = bytes.Join([][]byte{doc[:at[2]], text, doc[at[3]:]}, nil)
		require.NoError(t, os.WriteFile(docFile, doc, 0o644))
		at = docExample.FindSubmatchIndex(doc)
	}
	example := doc[at[2]:at[3]]
	require.Equal(t, string(text), string(example))
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(stateOf(dir), example, 0o600))
	f, c := mustOpen(t, dir, testOptions())
	require.Equal(t, h, f.Header())
	require.Empty(t, c.Damage)
	require.Len(t, c.Locks, 2)
	require.Equal(t, dlm.PR, c.Locks[0].Mode)
	require.Equal(t, lostLock, c.Locks[1])
	require.Equal(t, uint64(44), c.NextID)
}
