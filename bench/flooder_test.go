package bench

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	godbus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// The flooder is a process of another user that calls as fast as it is answered. It writes messages
// that were encoded once, and only looks for the end of each answer, so that it uses little of the
// processor itself.

// flooderUser is the user nobody, in a group that may acquire locks.
const flooderUser = 65534

// flood is a kind of flood: a number of connections of one user, each with a number of unanswered
// calls at a time.
type flood struct {
	name   string
	conns  int
	window int
	unread bool          // the answers are not read
	first  *rawCall      // made once
	calls  []*rawCall    // made in turns
	burst  int           // so many calls, then the connection ends and another one begins
	dest   string        // "" the service
	raw    func() []byte // instead of calls: a whole message, without sender
}

type rawCall struct {
	path   godbus.ObjectPath
	member string // with interface
	args   []any
}

func call(member string, args ...any) *rawCall {
	return &rawCall{servicePath, serviceName + "." + member, args}
}

func at(path, member string, args ...any) *rawCall {
	return &rawCall{godbus.ObjectPath(path), member, args}
}

func (c *rawCall) encode(dest string) []byte {
	dot := strings.LastIndexByte(c.member, '.')
	msg := &godbus.Message{Type: godbus.TypeMethodCall, Body: c.args, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldDestination: godbus.MakeVariant(dest), godbus.FieldPath: godbus.MakeVariant(c.path),
		godbus.FieldInterface: godbus.MakeVariant(c.member[:dot]),
		godbus.FieldMember:    godbus.MakeVariant(c.member[dot+1:]),
	}}
	if len(c.args) > 0 {
		msg.Headers[godbus.FieldSignature] = godbus.MakeVariant(godbus.SignatureOf(c.args...))
	}
	var b bytes.Buffer
	if err := msg.EncodeTo(&b, binary.LittleEndian); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// runFlooder is the process. Its argument is the kind of flood and the bus.
func runFlooder(arg string) {
	kind, address, _ := strings.Cut(arg, " ")
	becomeFlooder()
	n, _ := strconv.Atoi(kind)
	f := floods()[n]
	var wg sync.WaitGroup
	for range f.conns {
		wg.Go(func() {
			for {
				if err := f.connection(strings.TrimPrefix(address, "unix:path=")); err != nil {
					fmt.Fprintln(os.Stderr, "flood", f.name+":", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// becomeFlooder makes this the process of another user.
func becomeFlooder() {
	_ = syscall.Setgroups([]int{flooderUser})
	if err := syscall.Setgid(flooderUser); err != nil {
		fatal(err)
	}
	if err := syscall.Setuid(flooderUser); err != nil {
		fatal(err)
	}
	// It ends with its parent; changing the user has undone that (prctl(2)).
	_ = unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// connection floods over one connection until it ends, or the burst is over.
func (f *flood) connection(socket string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	in := bufio.NewReaderSize(c, 64<<10)
	if err := hello(c, in); err != nil {
		return err
	}
	dest := f.dest
	if dest == "" {
		dest = serviceName
	}
	var msgs [][]byte
	for _, m := range f.calls {
		msgs = append(msgs, m.encode(dest))
	}
	if f.raw != nil {
		msgs = append(msgs, f.raw())
	}
	serial := uint32(1)
	send := func(m []byte) error {
		serial++
		binary.LittleEndian.PutUint32(m[8:], serial)
		_, err := c.Write(m)
		return err
	}
	if f.first != nil {
		if err := send(f.first.encode(dest)); err != nil {
			return err
		}
		if err := answer(in); err != nil {
			return err
		}
	}
	for i := 0; ; i++ {
		if f.burst > 0 && i == f.burst {
			return nil
		}
		if len(msgs) == 0 {
			select {} // subscribed, and never reading
		}
		if !f.unread && i >= f.window {
			if err := answer(in); err != nil {
				return err
			}
		}
		if err := send(msgs[i%len(msgs)]); err != nil {
			return err
		}
	}
}

func hello(c net.Conn, in *bufio.Reader) error {
	if _, err := fmt.Fprintf(c, "\x00AUTH EXTERNAL %x\r\n", strconv.Itoa(flooderUser)); err != nil {
		return err
	}
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	m := at("/org/freedesktop/DBus", "org.freedesktop.DBus.Hello").encode("org.freedesktop.DBus")
	binary.LittleEndian.PutUint32(m[8:], 1)
	if _, err := c.Write(append([]byte("BEGIN\r\n"), m...)); err != nil {
		return err
	}
	return answer(in)
}

// answer skips messages until one is an answer, and that one too.
func answer(in *bufio.Reader) error {
	for {
		head, err := in.Peek(16)
		if err != nil {
			return err
		}
		kind := godbus.Type(head[1])
		size := 16 + int(binary.LittleEndian.Uint32(head[12:])+7)&^7 + int(binary.LittleEndian.Uint32(head[4:]))
		if _, err := io.CopyN(io.Discard, in, int64(size)); err != nil {
			return err
		}
		if kind == godbus.TypeMethodReply || kind == godbus.TypeError {
			return nil
		}
	}
}
