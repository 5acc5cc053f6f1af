package state

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// writerDir is the environment variable that makes this binary the process
// that TestKilledAtRandom kills.
const writerDir = "DLMLOCKD_TEST_WRITER_DIR"

// writeUntilKilled appends to the file in dir, with compactions all the time, and reports on
// standard output what has been written: + for locks, - for locks that are gone; and "? ID" before
// it tries to end one.
func writeUntilKilled(dir string) {
	f, c, err := Open(dir, Options{Header: testHeader(), Log: quiet(), CompactMin: 4 << 10})
	must(err)
	fmt.Println("ready")
	id := c.NextID
	held := c.Locks
	for {
		n := 1
		if id%10 == 0 {
			n = 200 // more than a page, so that a write can be cut short
		}
		var batch []Change
		for range n {
			batch = append(batch, aLock(id))
			held = append(held, aLock(id))
			id++
		}
		must(f.Append(batch))
		fmt.Println("+", id-uint64(n), id)
		for len(held) > 30 {
			l := held[0]
			held = held[1:]
			fmt.Println("?", l.ID)
			must(f.Append([]Change{Mark{ID: l.ID, Phase: Gone}}))
			fmt.Println("-", l.ID)
		}
	}
}

func must(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
}

// A process that is killed at any point has lost nothing that was reported as written, and has
// brought back nothing that was reported as gone.
func TestKilledAtRandom(t *testing.T) {
	dir := t.TempDir()
	held := map[uint64]bool{}
	torn, leftover := 0, 0
	for round := range 25 {
		unsure := killedWriter(t, dir, held)
		if _, err := os.Stat(dir + "/" + temporaryName); err == nil {
			leftover++
		}
		f, c, err := Open(dir, testOptions())
		require.NoError(t, err)
		require.Empty(t, c.Damage, "round %d", round)
		if c.Torn {
			torn++
		}
		found := map[uint64]bool{}
		for _, l := range c.Locks {
			found[l.ID] = true
			require.Equal(t, aLock(l.ID), l)
		}
		for id := range held {
			require.True(t, found[id] || id == unsure, "round %d: lock %d was written down and is lost", round, id)
		}
		for id := range found {
			require.True(t, held[id] || id > maxKey(held), "round %d: lock %d is gone and came back", round, id)
		}
		require.NoError(t, f.Close())
		held = found
	}
	t.Logf("unfinished records: %d, unfinished compactions: %d", torn, leftover)
}

func maxKey(m map[uint64]bool) (largest uint64) {
	for id := range m {
		largest = max(largest, id)
	}
	return largest
}

// killedWriter runs writeUntilKilled for a moment and applies its reports to held. It returns the
// lock that may or may not have ended.
func killedWriter(t *testing.T, dir string, held map[uint64]bool) (unsure uint64) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), writerDir+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	said := bufio.NewScanner(out)
	require.True(t, said.Scan())
	require.Equal(t, "ready", said.Text())
	kill := time.AfterFunc(time.Duration(rand.IntN(30_000))*time.Microsecond, func() { cmd.Process.Kill() })
	defer kill.Stop()
	for said.Scan() {
		var from, to uint64
		line := said.Text()
		switch n, _ := fmt.Sscan(line[1:], &from, &to); {
		case line[0] == '+' && n == 2:
			for id := from; id < to; id++ {
				held[id] = true
			}
		case line[0] == '?' && n == 1:
			unsure = from
		case line[0] == '-' && n == 1:
			delete(held, from)
		default: // the line that the kill cut, or an error
			require.False(t, said.Scan(), "%s", line)
		}
	}
	require.ErrorContains(t, cmd.Wait(), "killed")
	return unsure
}
