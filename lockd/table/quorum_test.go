package table

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// Of what is not known nobody says that it is well.
func TestQuorumIsKnownOrNot(t *testing.T) {
	yes, no := dlm.Health{Known: true, Quorate: true}, dlm.Health{Known: true}
	for name, c := range map[string]struct {
		node   api.Quorum
		spaces []dlm.Health
		want   api.Quorum
	}{
		"nobody was asked":               {want: api.QuorumUnknown},
		"the node alone":                 {node: api.Quorate, want: api.Quorate},
		"the node alone, without":        {node: api.Inquorate, want: api.Inquorate},
		"a lockspace":                    {spaces: []dlm.Health{yes}, want: api.Quorate},
		"a lockspace, without":           {node: api.Quorate, spaces: []dlm.Health{yes, no}, want: api.Inquorate},
		"a lockspace of which not known": {spaces: []dlm.Health{{}}, want: api.QuorumUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			tab := testTable()
			tab.conf.Quorum = c.node
			tab.space("unseen")
			for i, h := range c.spaces {
				sp := tab.space(string(rune('a' + i)))
				sp.health = health{h, true}
			}
			require.Equal(t, c.want, tab.Status().Quorum)
			require.Contains(t, []string{"quorate", "inquorate", "unknown"}, c.want.String())
		})
	}
}
