package varlink

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// hostileDo is what a hostile client does once.
var hostileDo = map[string]func(c *net.UnixConn){
	"slow sender": func(c *net.UnixConn) {
		for _, b := range []byte(`{"method":"org.example.DlmLock.Acq`) {
			_, _ = c.Write([]byte{b})
			time.Sleep(time.Millisecond)
		}
	},
	"message without end": func(c *net.UnixConn) {
		part := []byte(strings.Repeat("x", 1<<20))
		for range 64 {
			if _, err := c.Write(part); err != nil {
				return
			}
		}
	},
	"deep nesting": func(c *net.UnixConn) {
		_, _ = c.Write([]byte(`{"method":"a.b","parameters":` + strings.Repeat(`{"a":`, 1<<20) + "\x00"))
	},
	"thousands of calls in one write": func(c *net.UnixConn) {
		call := `{"method":"org.example.DlmLock.Inspect","parameters":{"lockspace":"vms","resource":"r"}}` + "\x00"
		_, _ = c.Write([]byte(strings.Repeat(call, 5000)))
	},
	"replies that are never read": func(c *net.UnixConn) {
		_, _ = c.Write([]byte(`{"method":"org.example.DlmLock.Monitor","more":true}` + "\x00"))
		time.Sleep(50 * time.Millisecond)
	},
	"long lists, cut": func(c *net.UnixConn) {
		_, _ = c.Write([]byte(`{"method":"org.example.DlmLock.ListLocks","more":true}` + "\x00"))
	},
	"refused calls": func(c *net.UnixConn) {
		call := `{"method":"org.example.DlmLock.Acquire","parameters":{"lockspace":"vms","resource":"r","mode":"ex"}}`
		_, _ = c.Write([]byte(strings.Repeat(call+"\x00", 100)))
	},
	"descriptors": func(c *net.UnixConn) {
		_, _, _ = c.WriteMsgUnix([]byte("{"), unix.UnixRights(0, 0, 0), nil)
	},
	"connections": func(*net.UnixConn) {},
}

// TestHostileClient is no test: it is the process of TestHostile's hostile user.
func TestHostileClient(t *testing.T) {
	do := hostileDo[os.Getenv("HOSTILE")]
	if do == nil {
		t.Skip("it is run by TestHostile")
	}
	for range 8 {
		go func() {
			for {
				c, err := testbus.Nobody.Connect(os.Getenv("HOSTILE_SOCKET"))
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				_ = c.SetWriteDeadline(time.Now().Add(time.Second))
				do(c)
				_ = c.Close()
			}
		}()
	}
	select {}
}

// startHostile runs the hostile user's process until stop is called.
func startHostile(t *testing.T, name, socket string) (stop func()) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestHostileClient$")
	cmd.Env = append(os.Environ(), "HOSTILE="+name, "HOSTILE_SOCKET="+socket)
	require.NoError(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// While one user does what they can, another one's pairs of Acquire and Release go
// on, memory stays bounded, and nothing is left in the end. How long the pairs take is
// only logged: under the race detector, and beside other tests, it says little.
func TestHostile(t *testing.T) {
	r := newRig(t, rigConfig{})
	for dir := r.path; len(dir) > len(os.TempDir())+1; dir = dir[:strings.LastIndexByte(dir, '/')] {
		require.NoError(t, os.Chmod(dir, 0o777))
	}
	root := r.dial()
	for batch := range 20 {
		var wanted []string
		for i := range 100 {
			wanted = append(wanted, fmt.Sprintf(`{"lockspace":"vms","resource":"l%d","mode":"ex"}`, batch*100+i))
		}
		root.ok("AcquireMany", `{"wanted":[`+strings.Join(wanted, ",")+`]}`)
	}
	files := openFiles(t)
	for name, do := range hostileDo {
		t.Run(name, func(t *testing.T) {
			_ = do
			stop := startHostile(t, name, r.path)
			var took []time.Duration
			for end := time.Now().Add(700 * time.Millisecond); time.Now().Before(end); {
				began := time.Now()
				root.ok("Acquire", disk)
				root.ok("Release", `{"lockspace":"vms","resource":"disk1"}`)
				took = append(took, time.Since(began))
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			stop()
			slices.Sort(took)
			p99 := took[len(took)*99/100]
			t.Logf("%d pairs, median %v, p99 %v, heap %d MiB", len(took), took[len(took)/2], p99, m.HeapInuse>>20)
			require.Less(t, m.HeapInuse, uint64(256<<20))
		})
	}
	// As long as the number goes down, the machine is only busy. The looks are counted, not the time: if
	// this process seldom runs, it looks seldom.
	left := func() int { return r.door.Connections() - 1 + max(0, openFiles(t)-files-2) }
	least, looks := left(), 0
	for n := least; n > 0; n = left() {
		if looks++; n < least {
			least, looks = n, 0
		}
		require.Less(t, looks, int(patience/(5*time.Millisecond)), "%d connections and files are left", n)
		time.Sleep(5 * time.Millisecond)
	}
	answered := func() bool { return r.core.Usage(testbus.Nobody.UID).Unanswered == 0 }
	require.Eventually(t, answered, patience, time.Millisecond)
}
