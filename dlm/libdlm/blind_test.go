package libdlm

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// blind hides /proc/misc, as from a process that has no descriptor left, and returns the function
// that shows it again.
func (m *machine) blind() (see func()) {
	m.unseen = true
	m.write()
	return func() { m.unseen = false; m.write() }
}

// A lockspace that can't be looked up is not taken for one that was left: its locks would count as
// lost.
func TestNotSeenIsNotLeft(t *testing.T) {
	recheckPause = time.Millisecond
	t.Cleanup(func() { recheckPause = time.Second })
	m, e := newMachine(t)
	var ev events
	_, err := e.Create(t.Context(), "foo", ev.sink)
	require.NoError(t, err)
	see := m.blind()
	e.removed("foo")
	e.recheck()
	time.Sleep(20 * recheckPause)
	require.Empty(t, ev.take())

	// Nor is it gone for somebody who wants to open it, if its device exists.
	m.fails = []error{syscall.ENOENT}
	_, err = e.Open(t.Context(), "foo", ignore)
	require.Error(t, err)
	require.NotErrorIs(t, err, dlm.ErrNoLockspace)

	// And one that may have been created in part is not reported as missing.
	m.fails = []error{syscall.ENOENT}
	_, err = e.Create(t.Context(), "bar", ignore)
	var de *dlm.Error
	require.ErrorAs(t, err, &de)
	require.True(t, de.Unsettled)

	// Once it can be seen that the lockspace was left, that is noticed.
	delete(m.misc, "dlm_foo")
	see()
	require.Eventually(t, func() bool { return len(ev.take()) == 1 }, time.Minute, time.Millisecond)
}

func TestRemoveThatCanNotBeSeen(t *testing.T) {
	m, e := newMachine(t)
	_, err := e.Create(t.Context(), "foo", ignore)
	require.NoError(t, err)
	see := m.blind()
	defer see()
	err = e.Remove(t.Context(), "foo")
	require.Error(t, err, "nobody knows whether it was removed")
	require.NotErrorIs(t, err, dlm.ErrNoLockspace)
}

func TestStartThatCanNotBeSeen(t *testing.T) {
	m, e := newMachine(t)
	defer m.blind()()
	_, err := e.Open(t.Context(), "foo", ignore)
	require.Error(t, err)
	require.NotErrorIs(t, err, dlm.ErrNoLockspace)
	require.NotErrorIs(t, err, dlm.ErrClusterUnavailable)
}

// Events that can't be read count as dropped: the devices are checked, again and again, until the
// socket is closed.
func TestEventsThatCanNotBeRead(t *testing.T) {
	recheckPause = time.Millisecond
	t.Cleanup(func() { recheckPause = time.Second })
	file, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // EBADF
	require.NoError(t, err)
	u, lost, ended := &uevents{file: file}, make(chan struct{}, 1000), make(chan struct{})
	go func() {
		defer close(ended)
		u.watch(func(string) {}, func() { lost <- struct{}{} })
	}()
	<-lost
	<-lost
	u.close()
	<-ended
}
