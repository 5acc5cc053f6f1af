package virtlockd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"

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

// Whatever a client says, reading it ends, allocates little, and what was read is
// what was written.
func FuzzMessages(f *testing.F) {
	for _, c := range calls() {
		f.Add(c)
	}
	f.Add(bytes.Join(calls(), nil))
	for _, s := range stories(f) {
		for _, step := range s.steps {
			f.Add(step.request)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newMessageReader(bytes.NewReader(data))
		for at := 0; ; {
			m, err := r.next()
			if err != nil {
				require.LessOrEqual(t, cap(r.body), 2*len(data)+4096)
				return
			}
			size := int(binary.BigEndian.Uint32(data[at:]))
			if size <= maxBody {
				require.Equal(t, data[at:at+size], appendMessage(nil, m.header, m.body))
			}
			at += size
			parseAll(m.body)
		}
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
		r := &messageReader{in: bufio.NewReaderSize(bytes.NewReader(data), 512)}
		for {
			m, err := r.next()
			if err != nil {
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
