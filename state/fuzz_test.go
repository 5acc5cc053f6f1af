package state

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

// checkLoaded checks what must be true of the result of loading any text.
func checkLoaded(t *testing.T, text []byte, l *loaded) {
	at := int64(0)
	for _, d := range l.Damage {
		require.GreaterOrEqual(t, d.Offset, at)
		at = d.Offset + d.Length
		require.LessOrEqual(t, at, int64(len(text)))
	}
	if l.foreign != 0 {
		return
	}
	require.True(t, l.end == l.text || l.Torn)
	for i, lk := range l.Locks {
		require.NoError(t, validate(lk))
		require.True(t, i == 0 || l.Locks[i-1].ID < lk.ID)
		require.Less(t, lk.ID, l.NextID)
	}
	for _, r := range soundRecords(text, l) {
		require.True(t, sealed([]byte(r[1:])), "%q", r)
	}
	// When written again, it is a sound file that says the same.
	var fresh bytes.Buffer
	h := testHeader()
	h.Format = format
	_, err := writeContents(&fresh, h, &l.Contents)
	require.NoError(t, err)
	again, err := load(bytes.NewReader(fresh.Bytes()), int64(fresh.Len()), false)
	require.NoError(t, err)
	require.Empty(t, again.Damage)
	require.False(t, again.Torn)
	require.Equal(t, append([]Lock{}, l.Locks...), append([]Lock{}, again.Locks...))
	require.Equal(t, l.Spaces, again.Spaces)
	require.Equal(t, l.NextID, again.NextID)
}

// FuzzLoad loads arbitrary bytes.
func FuzzLoad(f *testing.F) {
	text, ends, _ := sampleFile()
	f.Add(text)
	f.Add(text[:ends[4]-3])
	f.Add(text[ends[0]:])
	f.Add([]byte("format = 3\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := load(bytes.NewReader(text), int64(len(text)), false)
		require.NoError(t, err)
		checkLoaded(t, text, l)
	})
}

// FuzzRecord loads any text as a record whose check is right, which the fuzzer would not find by
// chance. If it is accepted, the encoder would have written it.
func FuzzRecord(f *testing.F) {
	for _, c := range sampleChanges() {
		text := appendChange(nil, c)
		f.Add(text[1 : len(text)-checkLen])
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		h := testHeader()
		h.Format = format
		text := append(appendHeader(nil, h, 1), '\n')
		start := len(text)
		text = appendCheck(append(text, record...), start)
		l, err := load(bytes.NewReader(text), int64(len(text)), false)
		require.NoError(t, err)
		checkLoaded(t, text, l)
		if len(l.Damage) > 0 || l.found != 1 {
			return
		}
		var d decoder
		var lk Lock
		var m Mark
		var s Lockspace
		var c Change
		switch d.change(text[start:], &lk, &m, &s) {
		case lockRecord:
			c = lk
		case markRecord:
			c = m
		case spaceRecord:
			c = s
		}
		require.NoError(t, validate(c))
		require.Equal(t, string(text[start-1:]), string(appendChange(nil, c)))
	})
}
