package scale_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What Linux 6.12 said when the second of two nodes had left, with a lock on each of 1,000 resources.
const messages = `[   27.066880] dlm: space3: dlm_recover 17695911529437481984 generation 2 done: 104 ms
[   28.935142] dlm: space3: dlm_recover 17695911529437481986
[   28.939354] dlm: space3: dlm_clear_inactive 250 done
[   28.941747] dlm: space3: remove member 2
[   28.944488] dlm: space3: dlm_recover_members 1 nodes
[   28.945994] dlm: space3: generation 3 slots 1 1:1
[   28.946199] dlm: space3: dlm_recover_directory
[   28.946948] dlm: space3: dlm_recover_directory 7 in 6 new
[   28.947000] dlm: other: dlm_recover_directory 99 in 0 new
[   28.951167] dlm: space3: dlm_recover_masters
[   28.951644] dlm: space3: dlm_recover_masters 2 of 500
[   28.951732] dlm: space3: dlm_recover_locks 3 out
[   28.951777] dlm: space3: dlm_recover_locks 4 in
[   28.951929] dlm: space3: dlm_recover_rsbs 500 done
[   28.952095] dlm: space3: dlm_recover 17695911529437481986 generation 3 done: 4 ms
`

func TestReadRecovery(t *testing.T) {
	got, ok := recovery(messages, "space3")
	require.True(t, ok)
	require.Equal(t, 16953*time.Microsecond, (got.ended - got.began).Round(time.Microsecond))
	require.Equal(t, 16635*time.Microsecond, (got.rebuilt - got.began).Round(time.Microsecond))
	got.began, got.rebuilt, got.ended = 0, 0, 0
	require.Equal(t, recovered{reported: 4 * time.Millisecond, members: 1, in: 7, masters: 2, out: 3}, got)
	_, ok = recovery(messages, "other")
	require.False(t, ok, "it has not ended")
	_, ok = recovery(messages+"[   29.0] dlm: space3: dlm_recover 17695911529437481988\n", "space3")
	require.False(t, ok, "the next one has begun")
}

func TestReadDirectory(t *testing.T) {
	require.Equal(t, map[string]uint32{"61622063": 1, "00ff": 3}, directory(
		"rsb ptr nodeid master_nodeid dir_nodeid our_nodeid toss_time flags len str|hex name\n"+
			"rsb 00000000a7a8b9e5 1 1 2 2 4294894463 100 4 str ab c\n"+
			"rsb 00000000a7a8b9e6 3 3 2 2 0 100 2 hex 00 ff\n"+
			"rsb 00000000a7a8b9e7 0 2 3 2 0 100 1 str x\n"))
}
