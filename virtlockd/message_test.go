package virtlockd

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// calls are the requests of a whole story, one after the other.
func calls() [][]byte {
	var all [][]byte
	for i, args := range [][]byte{
		xdr("/spaces/files"),
		xdr(guestUUID(1), "web", 7, os.Getpid(), 0),
		xdr("", "/images/a.img", 1),
		xdr("", "/images/a.img", 0),
		xdr(0),
	} {
		h := header{Program: programLock, Version: protocolVersion, Serial: uint32(i),
			Procedure: []uint32{procCreateLockspace, procRegister, procAcquireResource, procReleaseResource, procRestrict}[i]}
		all = append(all, appendMessage(nil, h, args))
	}
	return all
}

// A connection may end at every byte. What was whole is done, nothing else is, and
// the door goes on.
func TestCutAtEveryByte(t *testing.T) {
	h := start(t, Settings{})
	all := calls()[:3]
	whole := bytes.Join(all, nil)
	for n := range len(whole) + 1 {
		c := dial(t, h.socket)
		_, err := c.Write(whole[:n])
		require.NoError(t, err)
		require.NoError(t, c.Conn.(interface{ CloseWrite() error }).CloseWrite())
		answers, err := io.ReadAll(c)
		require.NoError(t, err)
		done := 0
		for at := 0; done < len(all) && at+len(all[done]) <= n; done++ {
			at += len(all[done])
		}
		require.Len(t, answers, done*headerSize, "after %d bytes", n)
		require.NoError(t, c.Close())
		if done < len(all) {
			require.Empty(t, h.locks())
		}
	}
	h.held("web: /images/a.img PR")
}

// A message may come in parts of any size, and several may come at once.
func TestParts(t *testing.T) {
	h := start(t, Settings{})
	whole := bytes.Join(calls(), nil)
	for _, size := range []int{1, 2, 3, 7, 29, 64, len(whole)} {
		c := dial(t, h.socket)
		for part := range slices.Chunk(whole, size) {
			_, err := c.Write(part)
			require.NoError(t, err)
		}
		for range calls() {
			n, said := c.reply(t)
			require.Zero(t, n, said)
		}
		require.NoError(t, c.Close())
	}
	h.held()
}

// A client may send more calls than the door has room to answer before the client reads. Each call is
// answered nevertheless, and other clients are served meanwhile.
func TestUnreadAnswers(t *testing.T) {
	h := start(t, Settings{})
	c := dial(t, h.socket)
	one := appendMessage(nil, header{Program: programLock, Version: protocolVersion, Procedure: procCreateLockspace},
		xdr("/var/lib/libvirt/lockd/files"))
	const batch = 1000
	calls := bytes.Repeat(one, batch)
	sent := 0
	for {
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(300*time.Millisecond)))
		n, err := c.Write(calls[sent%len(one):])
		if sent += n; err != nil {
			require.True(t, isTimeout(err), err)
			break
		}
	}
	dial(t, h.socket).ok(t, 0, `lockspace /var/lib/libvirt/lockd/files`)
	require.NoError(t, c.SetWriteDeadline(time.Time{}))
	rest := one[sent%len(one):]
	go func() { _, _ = c.Write(rest) }()
	for range (sent + len(rest)) / len(one) {
		n, said := c.reply(t)
		require.Zero(t, n, said)
	}
	c.ok(t, 0, `lockspace /var/lib/libvirt/lockd/files`)
}

// A message that has begun has to be complete in time; between two messages a client may be silent.
func TestUnfinishedMessage(t *testing.T) {
	h := start(t, Settings{})
	h.door.mu.Lock()
	h.door.messageTime = time.Millisecond
	h.door.mu.Unlock()
	c := dial(t, h.socket)
	c.ok(t, 0, `lockspace /var/lib/libvirt/lockd/files`)
	slow := dial(t, h.socket)
	_, err := slow.Write(calls()[0][:headerSize])
	require.NoError(t, err)
	_, end := slow.read(t, 0, true)
	require.True(t, end)
	c.ok(t, 0, `lockspace /var/lib/libvirt/lockd/files`)
}

// A message of the greatest length that the protocol has is taken, as its
// arguments are good, and costs no more memory than they do. One that is longer
// than that ends the connection.
func TestLongMessage(t *testing.T) {
	h := start(t, Settings{})
	c := dial(t, h.socket)
	head := appendMessage(nil, header{Program: programLock, Version: protocolVersion, Procedure: procCreateLockspace},
		xdr("/spaces/files"))
	binary.BigEndian.PutUint32(head, maxMessage)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := c.Write(head)
	require.NoError(t, err)
	_, err = io.CopyN(c, zeros{}, int64(maxMessage-len(head)))
	require.NoError(t, err)
	n, said := c.reply(t)
	require.Zero(t, n, said)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))

	binary.BigEndian.PutUint32(head, maxMessage+1)
	_, err = c.Write(head)
	require.NoError(t, err)
	_, end := c.read(t, 0, true)
	require.True(t, end)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Whatever a client sends, in parts of whatever size, the reader keeps little, and what was read is
// what was written.
func FuzzMessages(f *testing.F) {
	for _, c := range calls() {
		f.Add(c, byte(7))
	}
	f.Add(bytes.Join(calls(), nil), byte(0))
	for _, s := range stories(f) {
		for _, step := range s.steps {
			f.Add(step.request, byte(29))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, part byte) {
		var r messageReader
		at := 0
		for piece := range slices.Chunk(data, max(int(part), 1)) {
			for len(piece) > 0 {
				m, rest, whole, err := r.next(piece)
				require.LessOrEqual(t, cap(r.part), 2*len(data)+4096)
				if err != nil {
					size := binary.BigEndian.Uint32(data[at:])
					require.True(t, size < headerSize || size > maxMessage)
					return
				}
				if !whole {
					require.Empty(t, rest)
					break
				}
				size := int(binary.BigEndian.Uint32(data[at:]))
				if size <= headerSize+maxBody {
					require.Equal(t, data[at:at+size], appendMessage(nil, m.header, m.body))
				}
				at += size
				parseAll(m.body)
				piece = rest
			}
		}
		require.Equal(t, at < len(data), r.begun())
	})
}

// parseAll reads a body as the arguments of every call.
func parseAll(body []byte) {
	_, _ = parseRegister(body)
	_, _ = parseResource(body)
	_, _ = parseFlags(body)
	_, _, _ = parseNew(body)
	_, _ = parseLockspace(body)
}

// Whatever a client says before it registers is answered by whole messages, or by
// the end of the connection.
func FuzzConnection(f *testing.F) {
	for _, s := range stories(f) {
		for _, step := range s.steps {
			f.Add(step.request)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := New(Config{Log: discard()})
		d.Configure(Settings{Timeout: 1})
		c := &connection{door: d}
		for whole := true; whole; {
			var m message
			var err error
			if m, data, whole, err = c.in.next(data); err != nil || !whole {
				return
			}
			answer := c.answer(nil, m)
			if len(answer) > 0 {
				require.Equal(t, int(binary.BigEndian.Uint32(answer)), len(answer))
				require.Zero(t, len(answer)%4)
			}
		}
	})
}
