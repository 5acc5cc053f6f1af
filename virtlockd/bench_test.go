package virtlockd

import (
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkPair locks and unlocks a disk as libvirtd does, with a connection for each.
func BenchmarkPair(b *testing.B) {
	for _, workers := range []int{1, 8} {
		b.Run(strconv.Itoa(workers), func(b *testing.B) {
			h := start(b, Settings{})
			dir := b.TempDir()
			b.SetParallelism(workers)
			b.RunParallel(func(pb *testing.PB) {
				f, err := os.CreateTemp(dir, "disk")
				require.NoError(b, err)
				_ = f.Close()
				for pb.Next() {
					for _, call := range []string{"acquire", "release"} {
						c := dial(b, h.socket)
						c.ok(b, os.Getpid(), "register 1 web 7 0")
						c.ok(b, 0, `%s "" %s 0`, call, f.Name())
						_ = c.Close()
					}
				}
			})
		})
	}
}

// BenchmarkKept locks and unlocks a disk on a connection that is kept: the cost of the
// calls alone.
func BenchmarkKept(b *testing.B) {
	for _, workers := range []int{1, 8} {
		b.Run(strconv.Itoa(workers), func(b *testing.B) {
			h := start(b, Settings{})
			dir := b.TempDir()
			b.SetParallelism(workers)
			b.RunParallel(func(pb *testing.PB) {
				f, err := os.CreateTemp(dir, "disk")
				require.NoError(b, err)
				_ = f.Close()
				c := dial(b, h.socket)
				c.ok(b, os.Getpid(), "register 1 web 7 0")
				for pb.Next() {
					c.ok(b, 0, `acquire "" %s 0`, f.Name())
					c.ok(b, 0, `release "" %s 0`, f.Name())
				}
			})
		})
	}
}
