package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
)

// Where no service answers, the hint fits the socket; a hint of the command's own stands, whatever its
// text is.
func TestHintWhereNoServiceRuns(t *testing.T) {
	t.Setenv(client.AddressVariable, "")
	gone := &client.Error{Kind: client.NotRunning, Message: "m"}
	usual := judge(new(app), nil, gone).Hint
	require.Contains(t, usual, "systemctl start dlmlockd")
	a := &app{varlink: "/run/my socket"}
	require.Contains(t, judge(a, nil, gone).Hint, `"dlmlockd --varlink='/run/my socket'"`)
	require.Equal(t, usual, judge(a, nil, &failure{err: gone, hint: usual}).Hint)
	require.NotContains(t, judge(a, nil, &client.Error{Kind: client.NoBus, Message: "m"}).Hint, "my socket")
}
