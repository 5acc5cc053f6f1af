package bench

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/internal/testbus"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// varlinkFloor serves empty calls: it reads the parameters of Acquire and Release, does
// nothing, and answers as the service does. Its server is the service's own.
type varlinkFloor struct{}

func (varlinkFloor) Open(*wire.Conn) {}

func (varlinkFloor) HungUp(*wire.Conn) {}

func (varlinkFloor) Close(*wire.Conn) {}

func (varlinkFloor) Serve(_ context.Context, c *wire.Call) {
	var in struct {
		Lockspace string `json:"lockspace"`
		Resource  string `json:"resource"`
		Mode      string `json:"mode,omitempty"`
	}
	if err := wire.Decode(c.Parameters, &in); err != nil {
		panic(err)
	}
	if in.Mode == "" {
		_, _ = c.Reply(struct{}{})
		return
	}
	type grant struct {
		Lockspace string `json:"lockspace"`
		Resource  string `json:"resource"`
		LockID    uint32 `json:"lockId"`
		Token     uint64 `json:"token"`
		Lock      string `json:"lock"`
	}
	_, _ = c.Reply(struct {
		Granted grant `json:"granted"`
	}{grant{in.Lockspace, in.Resource, 2, 1795716509042224, "2"}})
}

// serveVarlinkFloor is the process behind the empty calls; it ends with its parent.
func serveVarlinkFloor(socket string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err == nil {
		err = wire.New(wire.Config{Handler: varlinkFloor{}}).Serve(l)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// varlinkCaller is a client with one connection.
type varlinkCaller struct {
	tb       testing.TB
	conn     net.Conn
	r        *bufio.Reader
	calls    [2][]byte
	resource string
}

func dialVarlink(tb testing.TB, socket, resource string) *varlinkCaller {
	var conn net.Conn
	var err error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if conn, err = net.Dial("unix", socket); err == nil {
			break
		}
	}
	must(tb, err)
	tb.Cleanup(func() { _ = conn.Close() })
	c := &varlinkCaller{tb: tb, conn: conn, r: bufio.NewReader(conn), resource: resource}
	const call = `{"method":"org.example.DlmLock.%s","parameters":{"lockspace":"%s","resource":"%s"%s}}` + "\x00"
	c.calls[0] = fmt.Appendf(nil, call, "Acquire", space, resource, `,"mode":"ex"`)
	c.calls[1] = fmt.Appendf(nil, call, "Release", space, resource, "")
	return c
}

func (c *varlinkCaller) pairs(n int) {
	for range n {
		for _, call := range c.calls {
			if _, err := c.conn.Write(call); err != nil {
				panic(err)
			}
			if _, err := c.r.ReadSlice(0); err != nil {
				panic(err)
			}
		}
	}
}

func togetherVarlink(cs []*varlinkCaller, n int) {
	var wg sync.WaitGroup
	for _, c := range cs {
		wg.Go(func() { c.pairs(n) })
	}
	wg.Wait()
}

// The whole way over Varlink, against the wire alone.
func BenchmarkVarlink(b *testing.B) {
	s := newSite(b, testbus.Daemon)
	s.start(b)
	s.caller(b, serviceName, "disk").join()
	floor := filepath.Join(s.dir, "floor")
	cmd := s.run(os.Args[0], []string{envVarlinkFloor + "=" + floor})
	must(b, cmd.Start())
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	var service, empty []*varlinkCaller
	for i := range 8 {
		service = append(service, dialVarlink(b, s.varlinkSocket(), fmt.Sprintf("disk%d", i)))
		empty = append(empty, dialVarlink(b, floor, fmt.Sprintf("disk%d", i)))
	}
	const one, many = 1000, 500
	m := interleave(21, func() { service[0].pairs(one) }, func() { empty[0].pairs(one) })
	b.ReportMetric(float64(m[0])/float64(m[1]), "ratio-1")
	add(line{"Acquire+Release over Varlink, 1 client", micros(m[0] / one), micros(m[1]/one) + " (two empty calls)",
		ratio(m[0], m[1]), "at most 2.0"})
	m = interleave(21, func() { togetherVarlink(service, many) }, func() { togetherVarlink(empty, many) })
	b.ReportMetric(float64(m[1])/float64(m[0]), "throughput-8")
	add(line{"Acquire+Release over Varlink, throughput of 8 clients", perSecond(8*many, m[0]),
		perSecond(8*many, m[1]) + " (two empty calls)", ratio(m[1], m[0]), "at least 0.5"})
}
