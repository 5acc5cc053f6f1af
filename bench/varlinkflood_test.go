package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// varlinkFlood is what one user does to the service over Varlink, in several goroutines at once,
// again and again. An error ends it until the next round.
type varlinkFlood struct {
	name  string
	conns int
	round func(f *varlinkFlooder) error
}

// varlinkFloods are the ways of hostile clients.
func varlinkFloods() []varlinkFlood {
	return []varlinkFlood{
		{"connections opened and closed in a loop, 8 at a time", 8, (*varlinkFlooder).openAndClose},
		{"10,000 connections, kept as long as possible", 8, (*varlinkFlooder).openMany},
		{"slow senders, a byte every 10 ms, 500 connections", 500, onNew(trickle)},
		{"64 MiB without an end, 4 connections", 4, onNew(endless)},
		{"calls of 8 MiB with 200,000 objects, 4 connections", 4, onNew(large)},
		{"5,000 calls in one write, 20 connections", 20, onNew(many)},
		{"replies that are never read, 20 connections", 20, onNew(deaf)},
		{"descriptors attached to each call, 8 connections", 8, onNew(descriptors)},
		{"connections cut after each byte of a call, 8 at a time", 8, (*varlinkFlooder).cut},
	}
}

// varlinkFlooder is one goroutine of a flood.
type varlinkFlooder struct {
	socket string
	kept   []net.Conn
}

func varlinkCall(method, parameters string) []byte {
	return fmt.Appendf(nil, `{"method":"org.example.DlmLock.%s","parameters":{%s}}`+"\x00", method, parameters)
}

var (
	floodList = varlinkCall("ListLocks", `"limit":1000`)
	floodWant = varlinkCall("Acquire", `"lockspace":"`+space+`","resource":"pool0/volume-00000001","mode":"ex"`)
)

func (f *varlinkFlooder) dial() (net.Conn, error) { return net.Dial("unix", f.socket) }

// onNew returns a round that has a connection of its own.
func onNew(do func(c net.Conn) error) func(*varlinkFlooder) error {
	return func(f *varlinkFlooder) error {
		c, err := f.dial()
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		return do(c)
	}
}

func (f *varlinkFlooder) openAndClose() error {
	c, err := f.dial()
	if err != nil {
		return err
	}
	return c.Close()
}

func (f *varlinkFlooder) openMany() error {
	c, err := f.dial()
	if err != nil {
		return err
	}
	if f.kept = append(f.kept, c); len(f.kept) > 10_000/8 {
		_ = f.kept[0].Close()
		f.kept = f.kept[1:]
	}
	return nil
}

func trickle(c net.Conn) error {
	for i := range floodWant {
		if _, err := c.Write(floodWant[i : i+1]); err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

func endless(c net.Conn) error {
	text := bytes.Repeat([]byte("x"), 64<<10)
	for range 1024 {
		if _, err := c.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// largeCall is nearly as long as a call may be, and most of it has to be parsed.
var largeCall = sync.OnceValue(func() []byte {
	const one = `{"lockspace":"vms","resource":"disk"},`
	const n = 8<<20/len(one) - 10
	return varlinkCall("ReleaseMany", `"owner":"flood","resources":[`+strings.TrimSuffix(strings.Repeat(one, n), ",")+`]`)
})

func large(c net.Conn) error {
	in := bufio.NewReaderSize(c, 64<<10)
	for {
		if _, err := c.Write(largeCall()); err != nil {
			return err
		}
		if _, err := in.ReadSlice(0); err != nil {
			return err
		}
	}
}

func many(c net.Conn) error {
	const n = 5000
	go func() { _, _ = c.Write(bytes.Repeat(floodWant, n)) }()
	in := bufio.NewReaderSize(c, 64<<10)
	for range n {
		if _, err := in.ReadSlice(0); err != nil {
			return err
		}
	}
	return nil
}

func deaf(c net.Conn) error {
	_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for {
		if _, err := c.Write(floodList); err != nil {
			return err
		}
	}
}

func descriptors(c net.Conn) error {
	rights := unix.UnixRights(slices.Repeat([]int{0}, 200)...)
	in := bufio.NewReaderSize(c, 64<<10)
	for {
		if _, _, err := c.(*net.UnixConn).WriteMsgUnix(floodWant, rights, nil); err != nil {
			return err
		}
		if _, err := in.ReadSlice(0); err != nil {
			return err
		}
	}
}

func (f *varlinkFlooder) cut() error {
	for n := range floodWant {
		c, err := f.dial()
		if err != nil {
			return err
		}
		_, err = c.Write(floodWant[:n])
		_ = c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// runVarlinkFlooder is the process of another user. Its argument is the number of the flood, and the
// socket.
func runVarlinkFlooder(arg string) {
	kind, socket, _ := strings.Cut(arg, " ")
	n, _ := strconv.Atoi(kind)
	flood := varlinkFloods()[n]
	_ = syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 20_000, Max: 20_000})
	becomeFlooder()
	var wg sync.WaitGroup
	for range flood.conns {
		wg.Go(func() {
			f := &varlinkFlooder{socket: socket}
			for {
				if flood.round(f) != nil {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
}

// dialAndWait connects as most programs do: where the queue of the socket is full, it waits, and net.Dial
// would fail.
func dialAndWait(tb testing.TB, socket string) net.Conn {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(tb, err)
	must(tb, unix.Connect(fd, &unix.SockaddrUnix{Name: socket}))
	f := os.NewFile(uintptr(fd), socket)
	c, err := net.FileConn(f)
	_ = f.Close()
	must(tb, err)
	return c
}

// pairOnNew makes an Acquire and a Release on a connection of their own, as dlmlockctl does.
func pairOnNew(tb testing.TB, socket string) {
	c := dialAndWait(tb, socket)
	defer func() { _ = c.Close() }()
	in := bufio.NewReader(c)
	for _, call := range [][]byte{
		varlinkCall("Acquire", `"lockspace":"`+space+`","resource":"disk","mode":"ex"`),
		varlinkCall("Release", `"lockspace":"`+space+`","resource":"disk"`),
	} {
		_, err := c.Write(call)
		must(tb, err)
		reply, err := in.ReadSlice(0)
		must(tb, err)
		if bytes.Contains(reply, []byte(`"error"`)) {
			tb.Fatalf("%s", reply)
		}
	}
}

// BenchmarkVarlinkFloods measures the effect of one user's hostile clients on root, who opens a
// connection for each pair, with 20,000 locks held.
func BenchmarkVarlinkFloods(b *testing.B) {
	for i, f := range varlinkFloods() {
		b.Run(f.name, func(b *testing.B) {
			s := bareSite(b)
			must(b, os.Chmod(s.dir, 0o755))
			must(b, os.WriteFile(filepath.Join(s.dir, "c.toml"), []byte("group = \"nogroup\"\n"), 0o600))
			record(b, filepath.Join(s.dir, "state"), 20_000)
			s.alone(b, daemonPath(b))
			b.Cleanup(s.kill)
			must(b, os.Chmod(s.varlinkSocket(), 0o666))
			pairs := func(d time.Duration) latencies {
				return measure(d, func() { pairOnNew(b, s.varlinkSocket()) })
			}
			line := s.measureFlood(b, pairs, func() *exec.Cmd { return s.varlinkFlood(b, i) })
			line.name = f.name
			addTo(&varlinkFloodReport, line)
		})
	}
}

func (s *site) varlinkFlood(tb testing.TB, kind int) *exec.Cmd {
	cmd := s.run(os.Args[0], []string{fmt.Sprintf("%s=%d %s", envVarlinkFlood, kind, s.varlinkSocket())})
	cmd.Stderr = io.Discard
	must(tb, cmd.Start())
	tb.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

var varlinkFloodReport []floodLine
