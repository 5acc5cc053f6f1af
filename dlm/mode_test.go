package dlm_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// TestCompatible compares the matrix with the picture in every text on distributed lock managers.
func TestCompatible(t *testing.T) {
	picture := map[dlm.Mode]string{
		//      NL CR CW PR PW EX
		dlm.NL: "y  y  y  y  y  y",
		dlm.CR: "y  y  y  y  y  n",
		dlm.CW: "y  y  y  n  n  n",
		dlm.PR: "y  y  n  y  n  n",
		dlm.PW: "y  y  n  n  n  n",
		dlm.EX: "y  n  n  n  n  n",
	}
	for _, a := range dlm.Modes {
		row := strings.Fields(picture[a])
		for _, b := range dlm.Modes {
			require.Equal(t, row[b] == "y", dlm.Compatible(a, b), "%v beside %v", a, b)
			require.Equal(t, dlm.Compatible(a, b), dlm.Compatible(b, a), "%v and %v", a, b)
		}
		require.True(t, dlm.Compatible(a, dlm.None), "nothing is held")
		require.True(t, dlm.Compatible(dlm.None, a))
	}
}

// TestWeakerModesAllowMore: a weaker mode is never less compatible, except for CW and PR, of which
// neither is weaker. Engines rely on it: a downward conversion is granted without a look at the
// queues.
func TestWeakerModesAllowMore(t *testing.T) {
	for _, weak := range dlm.Modes {
		for _, strong := range dlm.Modes {
			if weak >= strong || weak == dlm.CW && strong == dlm.PR {
				continue
			}
			for _, other := range dlm.Modes {
				if dlm.Compatible(strong, other) {
					require.True(t, dlm.Compatible(weak, other), "%v, %v beside %v", weak, strong, other)
				}
			}
		}
	}
}

// TestModesAreTheKernels: the numbers are passed to the kernel unchanged.
func TestModesAreTheKernels(t *testing.T) {
	require.Equal(t, [...]dlm.Mode{0, 1, 2, 3, 4, 5}, dlm.Modes)
	require.EqualValues(t, -1, dlm.None)
	for _, m := range dlm.Modes {
		require.True(t, m.Valid())
	}
	for _, m := range []dlm.Mode{dlm.None, 6, 127, -128} {
		require.False(t, m.Valid(), "%d", int8(m))
	}
}

func TestParseMode(t *testing.T) {
	good := map[string]dlm.Mode{
		"NL": dlm.NL, "cr": dlm.CR, "Cw": dlm.CW, "pr": dlm.PR, "PW": dlm.PW, "ex": dlm.EX,
		"shared": dlm.PR, "Exclusive": dlm.EX, "EXCLUSIVE": dlm.EX,
	}
	for text, want := range good {
		m, err := dlm.ParseMode(text)
		require.NoError(t, err, text)
		require.Equal(t, want, m, text)
		require.Equal(t, want.String(), dlm.Canonical(text))
	}
	for _, text := range []string{"", " EX", "EX ", "E", "EXX", "--", "5", "e\u0445", "ſhared"} {
		m, err := dlm.ParseMode(text)
		require.ErrorIs(t, err, dlm.ErrMode, text)
		require.Equal(t, dlm.None, m, text)
		require.Equal(t, text, dlm.Canonical(text))
	}
}

func TestModeStrings(t *testing.T) {
	for _, m := range dlm.Modes {
		back, err := dlm.ParseMode(m.String())
		require.NoError(t, err)
		require.Equal(t, m, back)
	}
	require.Equal(t, "--", dlm.None.String())
	require.Equal(t, "Mode(9)", dlm.Mode(9).String())
}

func FuzzParseMode(f *testing.F) {
	for _, text := range []string{"EX", "shared", "", "--", "\xff"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := dlm.ParseMode(text)
		if err == nil != m.Valid() {
			t.Fatalf("%q: mode %v with error %v", text, m, err)
		}
	})
}
