package agent

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
)

// The kinds of frame. A stream begins with one request from its opener; what
// follows depends on the request.
const (
	frameRequest = 'r' // JSON request, the first frame of every stream
	frameReply   = 'a' // JSON reply, the first frame of the answer
	frameInput   = 'i' // bytes for the process or file; empty means end of input
	frameSignal  = 'k' // one byte: signal number for the process
	frameOutput  = 'o' // bytes of standard output, or of a file read
	frameErrors  = 'e' // bytes of standard error
	frameExit    = 'x' // JSON exit, the last frame of a process
)

// maxFrame bounds one frame, so that a damaged length can't exhaust memory.
const maxFrame = 1 << 20

// chunk is how much data travels in one frame.
const chunk = 32 << 10

// request opens a job.
type request struct {
	Op   string   `json:"op"` // exec, put, get, dial, hello, or an operation of the host (Handler)
	Argv []string `json:"argv,omitempty"`
	Env  []string `json:"env,omitempty"` // added to the agent's own environment
	Dir  string   `json:"dir,omitempty"`
	UID  uint32   `json:"uid,omitempty"`
	GID  uint32   `json:"gid,omitempty"`

	Path string `json:"path,omitempty"` // put, get
	Mode uint32 `json:"mode,omitempty"` // put: permission bits

	Network string `json:"network,omitempty"` // dial
	Address string `json:"address,omitempty"`
}

// reply is the first answer to a request.
type reply struct {
	Err  string `json:"err,omitempty"`
	PID  int    `json:"pid,omitempty"`
	Text string `json:"text,omitempty"`
}

// exit is how a process ended.
type exit struct {
	Code   int    `json:"code"`             // -1 when killed by a signal
	Signal int    `json:"signal,omitempty"` // the signal that killed it
	Err    string `json:"err,omitempty"`    // Wait failed
}

// frameWriter writes frames, one at a time.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) write(kind byte, payload []byte) error {
	buf := make([]byte, 5, 5+len(payload))
	buf[0] = kind
	binary.BigEndian.PutUint32(buf[1:], uint32(len(payload)))
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.w.Write(append(buf, payload...))
	return err
}

func (f *frameWriter) writeJSON(kind byte, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.write(kind, payload)
}

// kindWriter is an io.Writer that sends everything as frames of one kind.
type kindWriter struct {
	f    *frameWriter
	kind byte
}

func (k kindWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, chunk)
		if err := k.f.write(k.kind, p[done:done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

// readFrame reads exactly one frame and not a byte more: a dialled stream
// turns into raw bytes after its reply.
func readFrame(r io.Reader) (byte, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return 0, nil, fmt.Errorf("agent: frame of %d bytes, the limit is %d", size, maxFrame)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, noEOF(err)
	}
	return head[0], payload, nil
}

// readJSON reads one frame that must be of the given kind into v.
func readJSON(r io.Reader, kind byte, v any) error {
	got, payload, err := readFrame(r)
	if err != nil {
		return noEOF(err)
	}
	if got != kind {
		return fmt.Errorf("agent: frame %q where %q was expected", got, kind)
	}
	return json.Unmarshal(payload, v)
}

// noEOF keeps a stream cut in the middle from looking like a clean end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
