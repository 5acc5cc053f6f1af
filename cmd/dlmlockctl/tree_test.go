package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/client"
)

func TestParseStat(t *testing.T) {
	rest := " S 41 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123456 789\n"
	for _, name := range []string{"sh", "a b", "(evil) S 1 1", "x) R 1 2 (y", "\n"} {
		p, err := parseStat(43, []byte("43 ("+name+")"+rest))
		require.NoError(t, err)
		require.Equal(t, process{pid: 43, parent: 41, start: 123456, state: 'S', name: name}, p)
	}
	for _, text := range []string{"", "43", "43 (sh) S 41", "43 )sh( " + rest, "43 (sh) S x" + rest[5:]} {
		_, err := parseStat(43, []byte(text))
		require.Error(t, err, text)
	}
	self, err := readProcess(os.Getpid())
	require.NoError(t, err)
	require.Equal(t, os.Getppid(), self.parent)
}

func TestBelow(t *testing.T) {
	all := []process{{pid: 1}, {pid: 2, parent: 1, start: 7}, {pid: 5, parent: 4}, {pid: 4, parent: 2, state: 'Z'},
		{pid: 3, parent: 1}, {pid: 6, parent: 2}, {pid: 9, parent: 9}}
	ids := func(all []process) (ids []int) {
		for _, p := range all {
			ids = append(ids, p.pid)
		}
		return ids
	}
	require.Equal(t, []int{2, 3, 6, 5}, ids(below(1, all, nil)), "through one that has ended, and not it")
	require.Equal(t, []int{3}, ids(below(1, all, []process{{pid: 2, start: 7}})))
	require.Equal(t, []int{2, 3, 6, 5}, ids(below(1, all, []process{{pid: 2, start: 8}})), "another that had the number")
	require.Empty(t, below(6, all, nil))
}

// That the service has released the lock of a command which has ended is no loss,
// also where this program learns of the end last.
func TestReleasedForTheEnd(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	h := &hold{a: &app{printer: printer{err: io.Discard}}, child: &child{proc: cmd.Process, done: make(chan struct{})},
		lifetime: client.Process,
		opts:     runOptions{onLost: lostWarn}}
	s := &supervision{hold: h}
	s.gone(&client.LossError{How: client.LossUnknown, Reason: "it no longer exists"})
	require.NotEmpty(t, s.lost, "the command runs")
	s.lost = ""
	require.NoError(t, in.Close())
	require.Eventually(t, func() bool {
		p, err := readProcess(cmd.Process.Pid)
		return err == nil && p.over()
	}, time.Minute, time.Millisecond)
	s.gone(&client.LossError{How: client.LossUnknown, Reason: "it no longer exists"})
	require.Empty(t, s.lost)
	require.NoError(t, cmd.Wait())
	s.gone(&client.LossError{How: client.LossUnknown, Reason: "it no longer exists"})
	require.Empty(t, s.lost)
	h.lifetime = client.Connection
	s.gone(&client.LossError{How: client.LossUnknown, Reason: "it no longer exists"})
	require.NotEmpty(t, s.lost)
}

func TestChangedEnvironment(t *testing.T) {
	require.Equal(t, []string{"A=1", "C", "B=new", "D="}, changed([]string{"A=1", "B=old", "B=older", "C", "GONE=x"},
		[]string{"B=new", "GONE", "D="}))
	require.Empty(t, changed(nil, []string{"GONE"}))
}

// A JSON text stays the same value, and holds nothing that can't be seen.
func TestEscapeJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := map[string]string{"k" + rapid.String().Draw(t, "key"): rapid.String().Draw(t, "value")}
		plain, err := json.Marshal(in)
		require.NoError(t, err)
		text := escapeJSON(plain)
		var out map[string]string
		require.NoError(t, json.Unmarshal(text, &out))
		require.Equal(t, in, out)
		require.Equal(t, string(text), visible(string(text)))
	})
	require.Equal(t, "\"\\u009b\\u202e\\u2066\\u200f\\u2028\\ufeff\\udb40\\udc41\"\n",
		string(escapeJSON([]byte("\"\u009b\u202e\u2066\u200f\u2028\ufeff\U000e0041\"\n"))))
	same := []byte("{\n \"größe\": \"☃\"}\n")
	require.True(t, bytes.Equal(same, escapeJSON(same)))
}

// A program that forks faster than it can be ended does not keep run from what
// follows.
func TestSweepEnds(t *testing.T) {
	forks, sent := 0, 0
	family := func() ([]process, error) {
		forks++
		return []process{{pid: forks, start: uint64(forks)}}, nil
	}
	send := func(process, syscall.Signal) error { sent++; return nil }
	var had []process
	left, err := sweep(family, send, syscall.SIGKILL, &had)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Equal(t, maxSweeps, sent)
	require.Len(t, had, maxSweeps)
}
