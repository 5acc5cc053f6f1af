package table

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// rivalOn is a program on another node, which is in the lockspace vms as well.
func rivalOn(t *testing.T, cluster *local.Cluster) dlm.Lockspace {
	rival, err := cluster.AddNode(2).Engine().Create(t.Context(), "vms", func(dlm.Event) {})
	require.NoError(t, err)
	return rival
}

// blockedModes has the modes noted for which holders are told that somebody waits.
func (s *sim) blockedModes() *[]dlm.Mode {
	modes := new([]dlm.Mode)
	s.blocked = func(n api.BlockingNotice) { *modes = append(*modes, n.Blocked) }
	return modes
}

// A release that fails uses up no notice: the lock manager does not repeat it, so the holder is told when
// the lock is held again, whatever the release had come to.
func TestBlockedWhileAReleaseFails(t *testing.T) {
	for _, fails := range []string{"write", "unlock"} {
		for step := -2; step < 6; step++ {
			t.Run(fmt.Sprintf("%s, %d", fails, step), func(t *testing.T) {
				s, cluster := simWith(t, "vms")
				rival := rivalOn(t, cluster)
				modes := s.blockedModes()
				a := s.acquire(alice, api.AcquireOptions{}, wantOf("vms", "x", dlm.EX))
				require.NoError(t, s.done(a))
				if fails == "write" {
					s.journal.SetFail(syscall.EIO)
				} else {
					failing(cluster, "unlock", syscall.ENOMEM)
				}
				if step < 0 { // it is known before, and -1: which node waits is found out meanwhile
					rival.Lock(1, "x", dlm.PR, 0)
					require.True(t, s.deliver())
				}
				c := s.release(alice, "vms", "x", api.Selector{})
				for step == -1 && (s.toil(0) || s.deliver()) {
				}
				for range step {
					_ = s.deliver() || s.write()
				}
				if step >= 0 {
					rival.Lock(1, "x", dlm.PR, 0)
				}
				require.Error(t, s.done(c))
				require.Equal(t, api.Held, s.tab.locks.byRef(a.grants[0].Ref).public())
				require.Equal(t, []dlm.Mode{dlm.PR}, *modes)
			})
		}
	}
}

// The owner of an orphan is told that somebody waits for it, if the lock manager says so once the orphan
// is adopted: before the owner has it, or in an adoption that fails in the end.
func TestBlockedWhileAnOrphanIsAdopted(t *testing.T) {
	for _, fails := range []syscall.Errno{0, syscall.EIO} {
		for step := range 8 {
			t.Run(fmt.Sprintf("%d, %d", fails, step), func(t *testing.T) {
				s, cluster := simWith(t, "vms")
				rival := rivalOn(t, cluster)
				p := strange(t, s.node, "vms")
				id := p.lock("x", dlm.PR, dlm.Persistent)
				p.end()
				modes := s.blockedModes()
				mine := api.AdoptOptions{Owner: "vm1", HasOwner: true}
				s.journal.SetFail(fails)
				c := s.adopt(root, "vms", id, mine)
				for range step {
					_ = s.deliver() || s.write() || s.toil(0)
				}
				left, err := s.engine.Orphans(t.Context(), "vms")
				require.NoError(t, err)
				rival.Lock(1, "x", dlm.EX, 0)
				if fails != 0 {
					require.ErrorIs(t, s.done(c), api.StateWriteFailed)
					s.journal.SetFail(0)
					s.retryJournal()
					s.rest()
					c = s.adopt(root, "vms", id, mine)
				}
				require.NoError(t, s.done(c))
				if len(left) > 0 {
					require.Empty(t, *modes, "the lock manager has nobody to tell")
					return
				}
				require.Equal(t, []dlm.Mode{dlm.EX}, *modes)
			})
		}
	}
}
