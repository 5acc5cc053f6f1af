package cluster

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRecovery(t *testing.T) {
	h := machine(t)
	r := h.Recovery("foo")
	for status, stopped := range map[string]bool{"0": true, "1": true, "15": true, "55": false, "ff": false, "": false,
		"?": false} {
		put(t, filepath.Join(h.root, sysfs, "foo/recover_status"), status+"\n")
		require.Equal(t, stopped, r.Stopped(), "%q", status)
	}
	require.NoError(t, r.Close())
	require.False(t, r.Stopped())
	r = h.Recovery("none")
	require.False(t, r.Stopped())
	require.NoError(t, r.Close())
}

// A lockspace counts as stopped from the removal of a member's address to the removal of the member.
func TestRecoveryOfAMemberWithoutAddress(t *testing.T) {
	h := machine(t)
	put(t, filepath.Join(h.root, sysfs, "foo/recover_status"), "55\n")
	comms := filepath.Join(h.root, configfs, "comms")
	changes := time.Unix(1000, 0)
	change := func(do func(string) error, names ...string) {
		for _, name := range names {
			require.NoError(t, do(filepath.Join(comms, name)))
		}
		changes = changes.Add(time.Second) // not all file systems count directories, and their clocks are coarse
		require.NoError(t, os.Chtimes(comms, changes, changes))
	}
	mkdir := func(path string) error { return os.Mkdir(path, 0o755) }

	r := h.Recovery("foo") // members 1 and 2
	require.False(t, r.Stopped())
	change(mkdir, "3")
	require.False(t, r.Stopped())
	change(os.RemoveAll, "3")
	require.False(t, r.Stopped(), "node 3 is not in the lockspace")
	change(os.RemoveAll, "1")
	require.True(t, r.Stopped())
	require.True(t, r.Stopped())
	change(mkdir, "4")
	require.True(t, r.Stopped(), "as many addresses as before")
	require.NoError(t, os.RemoveAll(filepath.Join(h.root, configfs, "spaces/foo/nodes/1")))
	require.False(t, r.Stopped(), "the lockspace goes on without node 1")

	change(os.RemoveAll, "2", "4")
	require.False(t, r.Stopped(), "dlm_controld has ended: it is not known who is reachable")
	require.NoError(t, r.Close())
	require.False(t, r.Stopped())
}

func TestMasterless(t *testing.T) {
	h := machine(t)
	r := h.Recovery("foo")
	defer r.Close()
	changed := func() bool {
		r.Stopped()
		return r.Changed()
	}
	require.True(t, changed(), "nobody has looked yet")
	require.False(t, changed())
	comms := filepath.Join(h.root, configfs, "comms")
	require.NoError(t, os.RemoveAll(filepath.Join(comms, "1")))
	require.NoError(t, os.Chtimes(comms, time.Unix(1000, 0), time.Unix(1000, 0)))
	require.True(t, changed())
	require.False(t, changed())

	names, err := r.Masterless()
	require.NoError(t, err)
	require.Empty(t, names)
	put(t, h.path(debugfs, "foo_toss"),
		"rsb ptr nodeid master_nodeid dir_nodeid our_nodeid toss_time flags len str|hex name\n"+
			"rsb 00000000f9226481 -1 0 1 1 0 300 10 str canceled-1\nrsb 00000000f9226482 0 1 1 1 0 300 6 str mine's\n"+
			"rsb 0000000099de18fd 2 2 1 1 0 300 4 str far \nrsb 0000000099de18fe -1 0 2 1 0 300 4 hex 61 20 0a 00\n")
	names, err = r.Masterless()
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"canceled-1": true, "a \n\x00": true}, names)
	put(t, h.path(debugfs, "foo_toss"), "rsb 1 -1 0 1 1 0 300 10 str short\n")
	_, err = r.Masterless()
	require.ErrorIs(t, err, errTable)
	put(t, h.path("proc/sys/kernel/osrelease"), "6.1.0-56-amd64\n")
	_, err = r.Masterless()
	require.ErrorIs(t, err, errUnusedUnsafe)
}
