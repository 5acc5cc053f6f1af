package lan

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// station is one node of the test: the other end of a port.
type station struct {
	number int
	conn   net.Conn
	got    chan string
}

// network plugs n stations into a switch and unplugs them at the end.
func network(t *testing.T, n int) (*Switch, []*station) {
	t.Helper()
	s := &Switch{}
	stations := make([]*station, n+1)
	for i := 1; i <= n; i++ {
		here, there := net.Pipe()
		st := &station{number: i, conn: here, got: make(chan string, 10_000)}
		stations[i] = st
		go func() { _ = s.Attach(i, there) }()
		go st.receive()
		t.Cleanup(func() { here.Close() })
	}
	synctest.Wait()
	return s, stations
}

func (st *station) receive() {
	for {
		var head [4]byte
		if _, err := io.ReadFull(st.conn, head[:]); err != nil {
			close(st.got)
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(st.conn, frame); err != nil {
			close(st.got)
			return
		}
		st.got <- string(frame[12:])
	}
}

// send sends text to the station with the number, 0 for all.
func (st *station) send(t *testing.T, to int, text string) {
	t.Helper()
	dst := MAC(to)
	if to == 0 {
		dst = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	frame := append(append([]byte{}, dst...), MAC(st.number)...)
	frame = append(frame, text...)
	_, err := st.conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...))
	require.NoError(t, err)
}

// heard returns what has arrived once everything is quiet.
func (st *station) heard() []string {
	synctest.Wait()
	var all []string
	for {
		select {
		case text, ok := <-st.got:
			if !ok {
				return all
			}
			all = append(all, text)
		default:
			return all
		}
	}
}

func TestFramesGoWhereTheyAreMeant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, st := network(t, 3)
		st[1].send(t, 2, "to two")
		st[1].send(t, 0, "to all")
		require.Equal(t, []string{"to two", "to all"}, st[2].heard())
		require.Equal(t, []string{"to all"}, st[3].heard())
		require.Empty(t, st[1].heard(), "nothing comes back")
		require.Equal(t, Stats{Passed: 3}, s.Stats())
	})
}

func TestCutIsDirected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, st := network(t, 2)
		s.SetLink(1, 2, Link{Cut: true})
		st[1].send(t, 2, "lost")
		st[2].send(t, 1, "passes")
		require.Equal(t, []string{"passes"}, st[1].heard())
		require.Empty(t, st[2].heard())
		require.Equal(t, Stats{Passed: 1, Cut: 1}, s.Stats())
	})
}

func TestPartitionIsolateHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, st := network(t, 3)
		s.Partition([]int{1, 2}, []int{3})
		st[1].send(t, 0, "a")
		require.Equal(t, []string{"a"}, st[2].heard())
		require.Empty(t, st[3].heard())

		s.Partition([]int{1}, []int{2, 3})
		st[3].send(t, 0, "b")
		require.Equal(t, []string{"b"}, st[2].heard())
		require.Empty(t, st[1].heard())

		s.Heal()
		s.Isolate(2, 1, 2, 3)
		st[2].send(t, 0, "c")
		st[1].send(t, 0, "d")
		require.Empty(t, st[2].heard())
		require.Empty(t, st[1].heard())
		require.Equal(t, []string{"d"}, st[3].heard())

		s.Heal()
		st[2].send(t, 0, "e")
		require.Equal(t, []string{"e"}, st[1].heard())
		require.Equal(t, []string{"e"}, st[3].heard())
	})
}

func TestDelayKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, st := network(t, 2)
		s.SetLink(1, 2, Link{Delay: time.Second})
		var want []string
		for i := range 100 {
			text := string(rune('0' + i%10))
			want = append(want, text)
			st[1].send(t, 2, text)
		}
		time.Sleep(999 * time.Millisecond)
		require.Empty(t, st[2].heard())
		time.Sleep(time.Millisecond)
		require.Equal(t, want, st[2].heard())
	})
}

func TestJitterChangesTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, st := network(t, 2)
		s.SetLink(1, 2, Link{Delay: time.Second, Jitter: time.Second})
		var sent []string
		for i := range 100 {
			text := string(rune('0' + i))
			sent = append(sent, text)
			st[1].send(t, 2, text)
		}
		time.Sleep(999 * time.Millisecond)
		require.Empty(t, st[2].heard())
		time.Sleep(1001 * time.Millisecond)
		heard := st[2].heard()
		require.ElementsMatch(t, sent, heard)
		require.NotEqual(t, sent, heard)
	})
}

func TestDropLosesAShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, st := network(t, 2)
		s.SetLink(1, 2, Link{Drop: 0.5})
		for range 1000 {
			st[1].send(t, 2, "x")
			synctest.Wait()
		}
		// 1000 coins: outside these bounds once in 10^23 runs.
		require.InDelta(t, 500, len(st[2].heard()), 160)
		s.SetLink(1, 2, Link{Drop: 1})
		st[1].send(t, 2, "x")
		require.Empty(t, st[2].heard())
	})
}

// A node that does not read must not stop the others, nor eat all memory.
func TestSlowPortLosesOnlyItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, st := network(t, 2)
		slow, there := net.Pipe()
		t.Cleanup(func() { slow.Close() })
		go func() { _ = s.Attach(3, there) }()
		synctest.Wait()
		for range maxQueued + 50 {
			st[1].send(t, 0, "x")
			synctest.Wait()
		}
		require.Len(t, st[2].heard(), maxQueued+50)
		require.Equal(t, uint64(49), s.Stats().Dropped, "one frame is on its way, %d wait", maxQueued)
	})
}

func TestPortComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, st := network(t, 2)
		_, there := net.Pipe()
		require.ErrorContains(t, s.Attach(2, there), "attached already")

		s.Detach(2)
		st[1].send(t, 2, "nobody there")
		require.Empty(t, st[2].heard())

		here, there := net.Pipe()
		t.Cleanup(func() { here.Close() })
		again := &station{number: 2, conn: here, got: make(chan string, 10)}
		go func() { _ = s.Attach(2, there) }()
		go again.receive()
		synctest.Wait()
		st[1].send(t, 2, "back")
		require.Equal(t, []string{"back"}, again.heard())
	})
}

func TestDamagedLengthEndsThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Switch{}
		here, there := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- s.Attach(1, there) }()
		_, err := here.Write([]byte{0xff, 0xff, 0xff, 0xff})
		require.NoError(t, err)
		require.ErrorContains(t, <-ended, "limit")
	})
}
