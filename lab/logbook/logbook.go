// Package logbook is the memory in which the clients of a soak record what they do,
// on nodes that may be switched off at any moment.
//
// A file of the host is a PCI device of every node (QEMU's ivshmem-plain). So what a
// client has written stays, whatever happens to its process or its node, and the test
// reads it without contacting the node. The first word is a clock that the host moves
// on, the same for all nodes. So the times of two calls on two nodes can be compared,
// however much the nodes' own clocks are set, and however long the nodes are paused.
//
// It owns the layout, the clock, and what a client may hold by its own account.
// It does not know how locks are acquired, or which answers are right.
//
// Concurrency: a page has one writer at a time, the client or, while that is
// paused or dead, the test. Orders and marks are the test's. Everything may be
// read at any time.
package logbook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How much there is of everything.
const (
	Size       = 128 << 20 // bytes of the file: a power of two, as of every PCI memory
	MaxNodes   = 12
	MaxClients = 96
	MaxEntries = 32768 // of a page; a client that has filled it waits for the next slice
	MaxMarks   = 255   // of a node and kind
)

// The offsets, in words of 8 bytes.
const (
	clockAt   = 0
	marksAt   = 8
	marksSize = 1 + 2*MaxMarks
	pagesAt   = marksAt + MaxNodes*int(kinds)*marksSize
	headSize  = 8
	pageSize  = headSize + MaxEntries*entrySize
	entrySize = 4
)

const _ = uint(Size - 8*(pagesAt+MaxClients*pageSize)) // it fits

// tickTime is the time between two ticks of the clock. A call takes longer.
const tickTime = 500 * time.Microsecond

// Logbook is the memory.
type Logbook struct {
	words []uint64
	// Keeps the file mapped; nothing is written through it.
	bytes []byte
}

// Create makes the file.
func Create(path string) (*Logbook, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = errors.Join(f.Truncate(Size), f.Close())
	if err != nil {
		return nil, err
	}
	return Open(path)
}

// Open maps the file, or the memory of the device that Device has found.
func Open(path string) (*Logbook, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("logbook: map %s: %w", path, err)
	}
	return &Logbook{words: unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), Size/8), bytes: b}, nil
}

// Device finds the memory in a node.
func Device() (path string, err error) {
	names, err := filepath.Glob("/sys/bus/pci/devices/*/device")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if text, err := os.ReadFile(name); err != nil || strings.TrimSpace(string(text)) != "0x1110" {
			continue
		}
		dir := filepath.Dir(name)
		// No driver has enabled the device's memory.
		return filepath.Join(dir, "resource2"), os.WriteFile(filepath.Join(dir, "enable"), []byte("1"), 0)
	}
	return "", errors.New("logbook: this machine has no shared memory (ivshmem)")
}

// Close unmaps it. Nothing of it may be used afterwards.
func (l *Logbook) Close() error { return unix.Munmap(l.bytes) }

// Run moves the clock on until stop is closed. Only one process does so. If it is held
// up, the clock stands still: more calls count as concurrent, but none is in a wrong
// order.
func (l *Logbook) Run(stop <-chan struct{}) {
	ticks := time.NewTicker(tickTime)
	defer ticks.Stop()
	for {
		l.Tick()
		select {
		case <-stop:
			return
		case <-ticks.C:
		}
	}
}

// Tick moves the clock on.
func (l *Logbook) Tick() { atomic.AddUint64(&l.words[clockAt], 1) }

// Now returns the time. What happens within one tick counts as happening at the same time.
func (l *Logbook) Now() uint64 { return atomic.LoadUint64(&l.words[clockAt]) }

// Kind is a kind of connection that a fault may end.
type Kind int

// The kinds.
const (
	Bus    Kind = iota // connections to the message bus
	Daemon             // connections to the daemon itself
	kinds
)

// Mark notes that connections of a kind may end on a node (from 1) from now on,
// until the function that it returns is called.
func (l *Logbook) Mark(node int, k Kind) (over func()) {
	at := l.marks(node, k)
	n := l.words[at]
	if n == MaxMarks {
		panic("logbook: too many marks")
	}
	begin, end := &l.words[at+1+2*int(n)], &l.words[at+2+2*int(n)]
	atomic.StoreUint64(end, 0)
	atomic.StoreUint64(begin, l.Now())
	atomic.StoreUint64(&l.words[at], n+1)
	return func() { atomic.StoreUint64(end, l.Now()) }
}

func (l *Logbook) marks(node int, k Kind) int {
	return marksAt + ((node-1)*int(kinds)+int(k))*marksSize
}

// Broken returns the earliest time at which a connection may have ended over which
// something was requested at the given time; 0: it has not ended.
func (l *Logbook) Broken(node int, k Kind, since uint64) uint64 {
	at := l.marks(node, k)
	for i := range int(atomic.LoadUint64(&l.words[at])) {
		begin, end := atomic.LoadUint64(&l.words[at+1+2*i]), atomic.LoadUint64(&l.words[at+2+2*i])
		if end == 0 || end >= since {
			return max(begin, since)
		}
	}
	return 0
}

// Clear removes all marks. No client may hold anything.
func (l *Logbook) Clear() {
	for node := 1; node <= MaxNodes; node++ {
		for k := range kinds {
			atomic.StoreUint64(&l.words[l.marks(node, k)], 0)
		}
	}
}

// Page returns the page of a client, which are numbered from 0.
func (l *Logbook) Page(client int) *Page {
	at := pagesAt + client*pageSize
	return &Page{logbook: l, words: l.words[at : at+pageSize]}
}
