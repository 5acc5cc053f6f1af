package state

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
)

// largeFile is a file of several portions, and what it says. Every kind of record and of string
// is in it.
func largeFile(n int) (text []byte, want []Lock) {
	h := testHeader()
	h.Format = format
	text = appendHeader(nil, h, 1)
	text = appendSpace(append(text, '\n'), &Lockspace{Name: "vms", Phase: Joined, AnchorID: 1})
	for id := uint64(1); id <= uint64(n); id++ {
		l := aLock(id)
		l.Resource = fmt.Sprintf("disk \"%d\"\\", id)
		if id%7 == 0 {
			l.Resource = fmt.Sprintf("\x00%d\xff", id)
		}
		if id%5 == 0 {
			l.OnLost, l.OnLostData = "fence", fmt.Sprintf("data %d", id)
		}
		text = appendLock(append(text, '\n'), &l)
		l.Phase = Held
		m := Mark{ID: id, Phase: Held}
		if id%3 == 0 {
			m.Mode, m.HasMode, m.Token = dlm.PR, true, id<<32
			m.Session, m.SessionBus = fmt.Sprintf(":1.%d", id), "another"
			l.Mode, l.Token, l.Session, l.SessionBus = m.Mode, m.Token, m.Session, m.SessionBus
		}
		text = appendMark(append(text, '\n'), &m)
		want = append(want, l)
	}
	return text, want
}

// What several workers make of a file is what one loader makes of it, and no string is a part of a
// buffer that is used again.
func TestLoadOnSeveralProcessors(t *testing.T) {
	text, want := largeFile(3000)
	require.Greater(t, len(text), 8*portionSize)
	for _, hurry := range []bool{false, true} {
		l, err := load(bytes.NewReader(text), int64(len(text)), hurry)
		require.NoError(t, err)
		require.Empty(t, l.Damage)
		require.Equal(t, testHeader().BootID, l.Header.BootID)
		require.Equal(t, want, l.Locks)
		require.Equal(t, "vms", l.Spaces[0].Name)
		mine := newMirror(&l.Contents, l.packed).contents()
		require.Equal(t, want, mine.Locks)
	}
}

// Damage is found where it is, however many workers there are.
func TestDamageOnSeveralProcessors(t *testing.T) {
	sound, _ := largeFile(700)
	rapid.Check(t, func(t *rapid.T) {
		text := bytes.Clone(sound)
		for range rapid.IntRange(1, 4).Draw(t, "pieces") {
			at := rapid.IntRange(0, len(text)).Draw(t, "at") // nothing may be left
			n := min(rapid.SampledFrom([]int{1, 3, 200, 2 * portionSize}).Draw(t, "length"), len(text)-at)
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				text = append(text[:at], text[at+n:]...)
			case 1:
				copy(text[at:at+n], bytes.Repeat([]byte("\n"), n))
			case 2:
				copy(text[at:at+n], bytes.Clone(text[:n]))
			}
		}
		one, err := load(bytes.NewReader(text), int64(len(text)), false)
		require.NoError(t, err)
		several, err := load(bytes.NewReader(text), int64(len(text)), true)
		require.NoError(t, err)
		require.Equal(t, one, several)
	})
}

// A lock is the same after it was packed.
func TestPackedLock(t *testing.T) {
	var p packer
	for _, c := range sampleChanges() {
		l, ok := c.(Lock)
		if !ok {
			continue
		}
		got := p.pack(&l).unpack()
		got.ID, got.Phase = l.ID, l.Phase
		require.Equal(t, string(appendLock(nil, &l)), string(appendLock(nil, &got)))
	}
}
