package api_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

func TestNodeNames(t *testing.T) {
	for _, names := range []map[uint32]string{
		{}, {1: "alpha"}, {1: "alpha", 2: "größe 日本", 4294967295: "a\nb=c\xff"},
	} {
		require.Equal(t, names, api.NamesOf(names).Map())
		require.Equal(t, api.NamesOf(names), api.NamesOf(names))
	}
	require.Equal(t, map[uint32]string{1: "ab"}, api.NamesOf(map[uint32]string{1: "a\x00b", 2: "\x00"}).Map())
	require.Empty(t, api.NodeNames{Missing: "not looked at"}.Map())
	require.NotEqual(t, api.NamesOf(map[uint32]string{1: "a"}), api.NamesOf(map[uint32]string{1: "b"}))
}
