package state

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The way in which strings are written is part of the format and never changes.
func TestStrings(t *testing.T) {
	for s, want := range map[string]string{
		"":                   `k = ""`,
		"disk1":              `k = "disk1"`,
		"it's ~100% #1":      `k = "it's ~100% #1"`,
		`a"b`:                `k = "a\"b"`,
		`\`:                  `k = "\\"`,
		`""\\`:               `k = "\"\"\\\\"`,
		"Grüße 東京 🔒":         `k = "Grüße 東京 🔒"`,
		"\u00a0\u00ad\u200b": "k = \"\u00a0\u00ad\u200b\"",
		"\ufffd":             "k = \"\ufffd\"",
		"\U0010ffff":         "k = \"\U0010ffff\"",
		"\x00":               `k-hex = "00"`,
		"\t":                 `k-hex = "09"`,
		"a\nb":               `k-hex = "610a62"`,
		"\x7f":               `k-hex = "7f"`,
		"\u0080":             `k-hex = "c280"`,
		"\u009f":             `k-hex = "c29f"`,
		"\u061c":             `k-hex = "d89c"`,
		"\u200e":             `k-hex = "e2808e"`,
		"\u200f":             `k-hex = "e2808f"`,
		"\u2028":             `k-hex = "e280a8"`,
		"\u2029":             `k-hex = "e280a9"`,
		"\u202a":             `k-hex = "e280aa"`,
		"\u202e":             `k-hex = "e280ae"`,
		"\u2066":             `k-hex = "e281a6"`,
		"\u2069":             `k-hex = "e281a9"`,
		"\ufeff":             `k-hex = "efbbbf"`,
		"\xff":               `k-hex = "ff"`,
		"a\xed\xa0\x80":      `k-hex = "61eda080"`, // a surrogate
	} {
		require.Equal(t, want+"\n", string(appendString(nil, newKey("k"), s)))
		d := decoder{rest: []byte(want + "\n")}
		require.Equal(t, s, d.str(newKey("k")))
		require.False(t, d.bad)
		require.Empty(t, d.rest)
	}
}

func TestWords(t *testing.T) {
	require.Equal(t, "granted held releasing gone",
		strings.Join([]string{Granted.String(), Held.String(), Releasing.String(), Gone.String()}, " "))
	require.Equal(t, "creating joined leaving left",
		strings.Join([]string{Creating.String(), Joined.String(), Leaving.String(), Left.String()}, " "))
	require.Equal(t, "Phase(0) Phase(9) SpacePhase(0) Lifetime(3)",
		strings.Join([]string{Phase(0).String(), Phase(9).String(), SpacePhase(0).String(), Lifetime(3).String()}, " "))
	for _, l := range []Lifetime{Persistent, Connection, Process} {
		got, ok := ParseLifetime(l.String())
		require.True(t, ok)
		require.Equal(t, l, got)
	}
	for _, s := range []string{"", "Persistent", "forever"} {
		_, ok := ParseLifetime(s)
		require.False(t, ok, s)
	}
}
