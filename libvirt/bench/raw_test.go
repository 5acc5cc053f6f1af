package bench

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/benchreport"
)

// The calls of libvirt's lock protocol that a guest's disk needs.
const (
	callRegister = 1
	callAcquire  = 6
	callRelease  = 7
	autocreate   = 2
)

// call makes a message of libvirt's lock protocol.
func call(procedure uint32, arguments []byte) []byte {
	var m []byte
	for _, word := range []uint32{uint32(28 + len(arguments)), 0x0EA7BEEF, 1, procedure, 0, 0, 0} {
		m = binary.BigEndian.AppendUint32(m, word)
	}
	return append(m, arguments...)
}

// text encodes a string of the protocol.
func text(s string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(s)))
	b = append(b, s...)
	return append(b, make([]byte, -len(s)&3)...)
}

func word(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// say sends a call, and takes its answer, which must be good.
func say(c net.Conn, message []byte) error {
	if _, err := c.Write(message); err != nil {
		return err
	}
	answer := make([]byte, 28)
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if n := binary.BigEndian.Uint32(answer); n != 28 {
		rest := make([]byte, n-28)
		_, err := io.ReadFull(c, rest)
		return fmt.Errorf("%q: %w", rest, err)
	}
	return nil
}

// pairs has workers acquire and release a disk each, on a connection that each keeps,
// for a second, and returns how many pairs that were.
func pairs(b *testing.B, socket, dir string, workers int) float64 {
	b.Helper()
	counts := make([]int, workers)
	var all sync.WaitGroup
	begun := time.Now()
	for w := range workers {
		guest := exec.Command("sleep", "infinity")
		launch(b, guest)
		disk := filepath.Join(dir, fmt.Sprintf("raw%d.img", w))
		write(b, disk, "")
		c, err := net.Dial("unix", socket)
		require.NoError(b, err)
		register := slices.Concat(make([]byte, 15), []byte{byte(w + 1)}, text("web"), word(7),
			word(uint32(guest.Process.Pid)), word(0))
		require.NoError(b, say(c, call(callRegister, register)))
		if w == workers-1 {
			begun = time.Now()
		}
		acquire := call(callAcquire, slices.Concat(text(""), text(disk), word(autocreate)))
		release := call(callRelease, slices.Concat(text(""), text(disk), word(0)))
		all.Go(func() {
			defer c.Close()
			for time.Since(begun) < time.Second {
				if err := say(c, acquire); err != nil {
					b.Error(err)
					return
				}
				if err := say(c, release); err != nil {
					b.Error(err)
					return
				}
				counts[w]++
			}
		})
	}
	all.Wait()
	total := 0
	for _, n := range counts {
		total += n
	}
	return float64(total) / time.Since(begun).Seconds()
}

// BenchmarkRaw compares the protocol alone, on kept connections, without libvirt's
// driver, whose time is mostly that of its connections.
func BenchmarkRaw(b *testing.B) {
	dir, err := os.MkdirTemp("/dev/shm", "raw-bench")
	require.NoError(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	theirs := virtlockd(b)
	inside := strings.TrimSuffix(strings.TrimPrefix(theirs.command[1], "--mount="), "/ns/mnt")
	sockets := []string{inside + "/root/run/libvirt/virtlockd-sock", filepath.Dir(stock(b).config) + "/virtlockd-sock"}
	var t strings.Builder
	t.WriteString("| workers | virtlockd, pairs/s | dlmlockd | to virtlockd |\n| --- | --- | --- | --- |\n")
	for _, workers := range []int{1, 4, 8} {
		var all [2][]float64
		for range rounds {
			for i, socket := range sockets {
				all[i] = append(all[i], pairs(b, socket, dir, workers))
			}
		}
		for i := range all {
			slices.Sort(all[i])
		}
		x, y := all[0][rounds/2], all[1][rounds/2]
		fmt.Fprintf(&t, "| %d | %.0f | %.0f | %.2f |\n", workers, x, y, y/x)
	}
	fmt.Print("\n", t.String())
	if path := os.Getenv("BENCH_REPORT"); path != "" {
		require.NoError(b, benchreport.Write(path, "bench-libvirt (bare protocol)", machine()+"\n"+t.String()))
	}
}
