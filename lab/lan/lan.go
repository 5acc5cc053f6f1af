// Package lan is the Ethernet between the lab's nodes: a switch whose cables a
// test can cut, slow down or make lossy.
//
// It owns the frames between leaving one node and reaching another. It speaks
// QEMU's "-netdev stream" framing: each Ethernet frame is preceded by its
// length as four bytes, big-endian.
//
// It refuses to know what the frames carry, who the nodes are and that QEMU
// exists: a port is a number and a stream.
//
// Concurrency: all methods may be called from any goroutine. Each attached
// port has a reading and a writing goroutine, which end with its stream.
package lan

import (
	"bufio"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// maxFrame is the longest frame taken, in bytes. virtio-net with its offloads
// hands over up to 64 KiB and a header.
const maxFrame = 128 << 10

// maxQueued bounds what waits for one port; more is dropped, as in any switch.
const maxQueued = 4096

// Link is what happens to frames from one port to another. The zero Link is a
// good cable.
type Link struct {
	Cut   bool          // nothing passes
	Delay time.Duration // every frame arrives this much later; order is kept
	// Jitter is the most that a frame is delayed beyond that, each frame by a different time:
	// a frame may overtake those before it.
	Jitter time.Duration
	Drop   float64 // the share of frames lost, from 0 to 1
}

// Switch is the Ethernet. The zero value is ready for use.
type Switch struct {
	mu    sync.Mutex
	ports map[int]*port
	links map[[2]int]Link // from, to
	stats Stats
}

// Stats counts frames since the start.
type Stats struct {
	Passed  uint64 // handed to a port
	Cut     uint64 // stopped by a cut link
	Dropped uint64 // lost to Link.Drop or to a full queue
}

// Attach plugs a stream into a port and moves its frames until the stream
// ends; it blocks that long. A port that is already attached is refused: its
// old stream has to end first (Detach). A clean end of the stream is nil.
func (s *Switch) Attach(number int, conn net.Conn) error {
	p := &port{conn: conn, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	s.mu.Lock()
	if s.ports == nil {
		s.ports = map[int]*port{}
	}
	if s.ports[number] != nil {
		s.mu.Unlock()
		return fmt.Errorf("lan: port %d is attached already", number)
	}
	s.ports[number] = p
	s.mu.Unlock()

	var writing sync.WaitGroup
	writing.Go(p.write)
	err := s.read(number, conn)
	s.mu.Lock()
	delete(s.ports, number)
	s.mu.Unlock()
	close(p.gone)
	conn.Close()
	writing.Wait()
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Detach pulls the plug of a port: its stream is closed and Attach returns.
func (s *Switch) Detach(number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.ports[number]; p != nil {
		p.conn.Close()
	}
}

// SetLink sets one direction of one link.
func (s *Switch) SetLink(from, to int, l Link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links == nil {
		s.links = map[[2]int]Link{}
	}
	s.links[[2]int{from, to}] = l
}

// Partition cuts every link between ports of different groups, in both
// directions, and mends those within a group. Ports in no group keep theirs.
func (s *Switch) Partition(groups ...[]int) {
	for i, a := range groups {
		for j, b := range groups {
			for _, from := range a {
				for _, to := range b {
					s.cut(from, to, i != j)
				}
			}
		}
	}
}

// Isolate cuts one port off from all others that are given.
func (s *Switch) Isolate(number int, others ...int) {
	for _, o := range others {
		if o != number {
			s.cut(number, o, true)
			s.cut(o, number, true)
		}
	}
}

// cut changes only the cut of one direction; delay and loss stay.
func (s *Switch) cut(from, to int, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links == nil {
		s.links = map[[2]int]Link{}
	}
	l := s.links[[2]int{from, to}]
	l.Cut = cut
	s.links[[2]int{from, to}] = l
}

// Heal makes every cable good again.
func (s *Switch) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.links)
}

// Stats returns the counts so far.
func (s *Switch) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// read forwards a port's frames until its stream ends.
func (s *Switch) read(from int, conn net.Conn) error {
	r := bufio.NewReaderSize(conn, 64<<10)
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(head[:])
		if size > maxFrame {
			return fmt.Errorf("lan: port %d sent a frame of %d bytes, the limit is %d", from, size, maxFrame)
		}
		frame := make([]byte, 4+size)
		copy(frame, head[:])
		if _, err := io.ReadFull(r, frame[4:]); err != nil {
			return err
		}
		s.forward(from, frame)
	}
}

// forward hands the frame to the ports it is meant for. Addresses follow from
// port numbers (MAC), so there is nothing to learn and nothing to go stale
// when a node comes back.
func (s *Switch) forward(from int, frame []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for to, p := range s.ports {
		if to == from || !meantFor(to, frame) {
			continue
		}
		link := s.links[[2]int{from, to}]
		switch {
		case link.Cut:
			s.stats.Cut++
		case link.Drop > 0 && rand.Float64() < link.Drop, !p.put(frame, link.delay()):
			s.stats.Dropped++
		default:
			s.stats.Passed++
		}
	}
}

// delay returns the delay of one frame.
func (l Link) delay() time.Duration {
	if l.Jitter <= 0 {
		return l.Delay
	}
	return l.Delay + rand.N(l.Jitter)
}

// MAC is the Ethernet address of the node at a port. It is the only rule the
// nodes have to keep: with it the switch knows where a frame goes.
func MAC(number int) net.HardwareAddr {
	return net.HardwareAddr{0x52, 0x54, 0, 0x1a, 0xb0, byte(number)}
}

// meantFor reports whether the frame's destination is the port's address, or
// one that the switch does not know or that means many.
func meantFor(number int, frame []byte) bool {
	if len(frame) < 4+6 {
		return false
	}
	to := frame[4:10]
	ours := MAC(0)
	if to[0]&1 != 0 || string(to[:5]) != string(ours[:5]) {
		return true
	}
	return to[5] == byte(number)
}

// port is one plugged-in stream.
type port struct {
	conn net.Conn
	wake chan struct{} // something was queued
	gone chan struct{} // the stream has ended

	mu    sync.Mutex
	queue waiting
	seq   uint64
}

// put queues a frame; false when the queue is full.
func (p *port) put(frame []byte, delay time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) >= maxQueued {
		return false
	}
	p.seq++
	heap.Push(&p.queue, delayed{due: time.Now().Add(delay), seq: p.seq, frame: frame})
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

// next returns the frame that is due, or how long to wait for one.
func (p *port) next() (frame []byte, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 {
		return nil, time.Hour
	}
	if wait := time.Until(p.queue[0].due); wait > 0 {
		return nil, wait
	}
	return heap.Pop(&p.queue).(delayed).frame, 0
}

// write sends frames when they are due, until the stream ends.
func (p *port) write() {
	for {
		frame, wait := p.next()
		if frame != nil {
			if _, err := p.conn.Write(frame); err != nil {
				p.conn.Close() // ends the reader, and so the port
				return
			}
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-p.wake:
		case <-timer.C:
		case <-p.gone:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// delayed is a frame and when to send it; seq keeps the order among equals.
type delayed struct {
	due   time.Time
	seq   uint64
	frame []byte
}

// waiting is a heap of frames, the next one due on top.
type waiting []delayed

func (w waiting) Len() int { return len(w) }
func (w waiting) Less(i, j int) bool {
	if w[i].due.Equal(w[j].due) {
		return w[i].seq < w[j].seq
	}
	return w[i].due.Before(w[j].due)
}
func (w waiting) Swap(i, j int) { w[i], w[j] = w[j], w[i] }
func (w *waiting) Push(x any)   { *w = append(*w, x.(delayed)) }
func (w *waiting) Pop() any {
	old := *w
	last := old[len(old)-1]
	old[len(old)-1] = delayed{}
	*w = old[:len(old)-1]
	return last
}
