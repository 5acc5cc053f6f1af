package logbook

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// create makes a logbook whose clock is moved on by the test.
func create(t *testing.T) *Logbook {
	l, err := Create(filepath.Join(t.TempDir(), "logbook"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	l.words[clockAt] = 1
	return l
}

// Another process reads what one process has written, up to where it was killed.
func TestAnotherProcessGoesOn(t *testing.T) {
	l := create(t)
	p := l.Page(MaxClients - 1)
	do := func(op Op, resource int, mode dlm.Mode, o Outcome) int {
		i := p.Begin(Entry{Op: op, Resource: resource, Mode: mode})
		l.words[clockAt]++
		p.Finish(i, o, 0, "NoAnswer, for example")
		return i
	}
	do(Acquire, 1, dlm.EX, Done)
	do(Convert, 1, dlm.NL, Done)
	do(Acquire, 2, dlm.PR, Refused)
	do(Acquire, 3, dlm.CW, Unanswered)
	p.Begin(Entry{Op: Acquire, Resource: 4, Mode: dlm.EX}) // killed in the call
	h := p.Holding()
	require.Equal(t, map[int]dlm.Mode{1: dlm.NL, 3: dlm.CW, 4: dlm.EX}, h.Held)
	require.Equal(t, map[int][]int{3: {3}, 4: {4}}, h.Open)
	require.Equal(t, Entry{Op: Acquire, Resource: 3, Mode: dlm.CW, Call: 4, Why: "NoAnswer"}, p.Entry(3))

	p.Begin(Entry{Op: End, Outcome: Done, Resource: 1, Mode: dlm.None, Kept: true, Call: 2})
	h = p.Holding()
	require.Equal(t, map[int]bool{1: true}, h.Lost)
	require.NotContains(t, h.Held, 1)
	i := do(Release, 1, dlm.None, Done)
	require.Equal(t, []int{5}, h.Add(i, p.Entry(i)), "the release ends what it did not know of")
	require.Empty(t, h.Lost)
	i = do(Release, 3, dlm.None, Unanswered)
	require.Empty(t, h.Add(i, p.Entry(i)))
	require.Contains(t, h.Held, 3, "it may be held still")
	require.Equal(t, []int{3, i}, h.Open[3])
	p.Close(i)
	require.Equal(t, []int{3}, p.Holding().Open[3])
}

func TestMarks(t *testing.T) {
	l := create(t)
	require.Zero(t, l.Broken(2, Bus, 1))
	l.words[clockAt] = 10
	over := l.Mark(2, Bus)
	require.EqualValues(t, 10, l.Broken(2, Bus, 5))
	require.EqualValues(t, 12, l.Broken(2, Bus, 12), "asked for while connections end")
	l.words[clockAt] = 20
	over()
	require.EqualValues(t, 20, l.Broken(2, Bus, 20))
	require.Zero(t, l.Broken(2, Bus, 21), "the connection is a new one")
	require.Zero(t, l.Broken(2, Daemon, 5))
	require.Zero(t, l.Broken(1, Bus, 5))
	l.Clear()
	require.Zero(t, l.Broken(2, Bus, 5))
}

func TestOrders(t *testing.T) {
	p := create(t).Page(0)
	_, obey := p.Order()
	require.Nil(t, obey)
	p.Give(Work)
	o, obey := p.Order()
	require.Equal(t, Work, o)
	p.Give(Finish)
	obey()
	require.False(t, p.Obeyed(), "that was the order before")
	o, obey = p.Order()
	require.Equal(t, Finish, o)
	obey()
	require.True(t, p.Obeyed())
	_, obey = p.Order()
	require.Nil(t, obey)
}
