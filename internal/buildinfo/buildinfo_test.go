package buildinfo

import (
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestComplete(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123abc"}, {Key: "vcs.time", Value: "2026-01-02T03:04:05Z"},
		{Key: "vcs.modified", Value: "true"},
	}}
	for name, test := range map[string]struct{ linked, want Build }{
		"nothing was linked in": {Build{}, Build{"v1.2.3", "0123abc-dirty", "2026-01-02T03:04:05Z"}},
		"the version was":       {Build{Version: "2"}, Build{"2", "0123abc-dirty", "2026-01-02T03:04:05Z"}},
		"all was":               {Build{"2", "ff", "2027-01-01T00:00:00Z"}, Build{"2", "ff", "2027-01-01T00:00:00Z"}},
		"the commit was":        {Build{Version: "2", Commit: "ff"}, Build{Version: "2", Commit: "ff"}},
	} {
		b := test.linked
		b.complete(info)
		require.Equal(t, test.want, b, name)
	}
	var b Build
	b.complete(&debug.BuildInfo{Main: debug.Module{Version: "(devel)"}})
	require.Equal(t, Build{}, b, "nothing is known")
}

func TestString(t *testing.T) {
	require.Equal(t, "1.2.3 (commit ff, built 2027-01-01T00:00:00Z)",
		Build{"1.2.3", "ff", "2027-01-01T00:00:00Z"}.String())
	b := Read("1.2.3", "ff", "")
	require.Equal(t, "1.2.3 (commit ff, built unknown)", b.String())
}
