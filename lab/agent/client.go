package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
)

// Handler answers a question that the node put to the host with Server.Ask.
type Handler func(op string, args []string) (string, error)

// Opener opens a new stream to an agent, within the context.
type Opener func(ctx context.Context) (net.Conn, error)

// Client is the host's half of a session with one node.
type Client struct {
	open  Opener
	close func() error
	done  <-chan struct{}
}

// Over returns a client whose streams come from elsewhere, for example
// relayed by a process that has the session ([Client.Open]). Its Done is nil
// and its Close does nothing.
func Over(open Opener) *Client {
	return &Client{open: open, close: func() error { return nil }}
}

// NewClient begins a session on the stream. Questions of the node go to
// answer, each in a goroutine of its own; nil refuses them all.
func NewClient(conn io.ReadWriteCloser, answer Handler) (*Client, error) {
	session, err := yamux.Client(conn, yamuxConfig())
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	open := func(ctx context.Context) (net.Conn, error) {
		// yamux opens streams without waiting for the other side.
		s, err := session.OpenStream()
		if err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
		return streamConn{s}, nil
	}
	go listen(session, answer)
	return &Client{open: open, close: session.Close, done: session.CloseChan()}, nil
}

// Open opens a bare stream of the protocol, to be relayed to the client of
// another process ([Over]).
func (c *Client) Open(ctx context.Context) (net.Conn, error) { return c.open(ctx) }

// Done is closed when the session has ended: the node is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the session; every process started through it is killed.
func (c *Client) Close() error { return c.close() }

// Hello returns once the node answers, or with the context's error.
func (c *Client) Hello(ctx context.Context) error {
	_, err := c.Ask(ctx, "hello")
	return err
}

// Ask puts one question to the node and waits for its answer.
func (c *Client) Ask(ctx context.Context, op string, args ...string) (string, error) {
	stream, stop, err := c.stream(ctx)
	if err != nil {
		return "", err
	}
	defer stop()
	defer stream.Close()
	text, err := ask(stream, request{Op: op, Argv: args})
	return text, because(ctx, err)
}

// ask sends a request that is answered with a single reply.
func ask(stream net.Conn, req request) (string, error) {
	out := frameWriter{w: stream}
	if err := out.writeJSON(frameRequest, req); err != nil {
		return "", err
	}
	return readReply(stream)
}

func readReply(stream net.Conn) (string, error) {
	var rep reply
	if err := readJSON(stream, frameReply, &rep); err != nil {
		return "", err
	}
	if rep.Err != "" {
		return "", errors.New(rep.Err)
	}
	return rep.Text, nil
}

// stream opens a stream that breaks when the context ends before stop is called.
func (c *Client) stream(ctx context.Context) (stream net.Conn, stop func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	conn, err := c.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	return conn, func() { unhook() }, nil
}

// streamConn closes both directions at once. The Close of a yamux stream
// ends only the writing and leaves a reader waiting for the other side.
type streamConn struct{ *yamux.Stream }

func (c streamConn) Close() error {
	err := c.Stream.Close()
	_ = c.SetReadDeadline(time.Unix(1, 0))
	return err
}

// because prefers the context's reason over the broken stream it caused.
func because(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// listen answers the node's questions until the session ends.
func listen(session *yamux.Session, answer Handler) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			defer stream.Close()
			var req request
			if readJSON(stream, frameRequest, &req) != nil {
				return
			}
			rep := reply{Err: "the host answers no questions"}
			if answer != nil {
				text, err := answer(req.Op, req.Argv)
				rep = result(err)
				rep.Text = text
			}
			out := frameWriter{w: stream}
			_ = out.writeJSON(frameReply, rep)
		}()
	}
}

// Command says what to run and how.
type Command struct {
	Argv   []string  // program (searched in the node's PATH) and arguments
	Env    []string  // NAME=value, added to the agent's environment
	Dir    string    // working directory in the node; "" is /
	UID    uint32    // run as this user and
	GID    uint32    // group; 0 and 0 is root
	Stdout io.Writer // nil discards; the writers are called from one goroutine
	Stderr io.Writer // nil discards
}

// ExitError is returned for a process that did not exit with status 0.
type ExitError struct {
	Argv   []string
	Code   int            // exit status, -1 when a signal killed it
	Signal syscall.Signal // 0 unless killed by a signal
	Stderr []byte         // its end, where Run collected it
}

// Error says what ended how, with the end of standard error.
func (e *ExitError) Error() string {
	msg := fmt.Sprintf("%q: exit status %d", e.Argv, e.Code)
	if e.Signal != 0 {
		msg = fmt.Sprintf("%q: killed by %v", e.Argv, e.Signal)
	}
	if text := bytes.TrimSpace(e.Stderr); len(text) > 0 {
		msg += ": " + string(text[max(0, len(text)-1000):])
	}
	return msg
}

// Process is a process running in the node.
type Process struct {
	// PID is its number in the node.
	PID int

	argv   []string
	stream net.Conn
	out    frameWriter
	done   chan struct{}
	err    error // valid once done is closed

	closeOnce sync.Once
}

// Start starts the command and returns once it runs. The context bounds the
// start only; Close, Kill or the end of the session end the process.
func (c *Client) Start(ctx context.Context, cmd Command) (*Process, error) {
	stream, stop, err := c.stream(ctx)
	if err != nil {
		return nil, err
	}
	p := &Process{argv: cmd.Argv, stream: stream, out: frameWriter{w: stream}, done: make(chan struct{})}
	var rep reply
	err = p.out.writeJSON(frameRequest, request{
		Op: "exec", Argv: cmd.Argv, Env: cmd.Env, Dir: cmd.Dir, UID: cmd.UID, GID: cmd.GID,
	})
	if err == nil {
		err = readJSON(stream, frameReply, &rep)
	}
	if err == nil && rep.Err != "" {
		err = errors.New(rep.Err)
	}
	if err != nil {
		err = because(ctx, err)
		stop()
		stream.Close()
		return nil, fmt.Errorf("start %q: %w", cmd.Argv, err)
	}
	stop()
	p.PID = rep.PID
	go p.collect(cmd.Stdout, cmd.Stderr)
	return p, nil
}

// collect moves output to the writers until the process has ended.
func (p *Process) collect(stdout, stderr io.Writer) {
	defer close(p.done)
	defer p.stream.Close()
	for {
		kind, payload, err := readFrame(p.stream)
		if err != nil {
			p.err = fmt.Errorf("%q: the node is gone: %w", p.argv, noEOF(err))
			return
		}
		switch kind {
		case frameOutput:
			emit(stdout, payload)
		case frameErrors:
			emit(stderr, payload)
		case frameExit:
			p.err = p.exitError(payload)
			return
		}
	}
}

// emit writes output where somebody wants it; a writer that fails loses it.
func emit(w io.Writer, payload []byte) {
	if w != nil {
		_, _ = w.Write(payload)
	}
}

func (p *Process) exitError(payload []byte) error {
	var e exit
	if err := json.Unmarshal(payload, &e); err != nil {
		return err
	}
	switch {
	case e.Err != "":
		return fmt.Errorf("%q: %s", p.argv, e.Err)
	case e.Code != 0:
		return &ExitError{Argv: p.argv, Code: e.Code, Signal: syscall.Signal(e.Signal)}
	}
	return nil
}

// Write sends bytes to the process's standard input.
func (p *Process) Write(b []byte) (int, error) {
	return kindWriter{&p.out, frameInput}.Write(b)
}

// CloseInput ends the process's standard input.
func (p *Process) CloseInput() error { return p.out.write(frameInput, nil) }

// Signal sends a signal to the process alone, not to its children.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.out.write(frameSignal, []byte{byte(sig)})
}

// Kill sends SIGKILL and waits for the end, which is not reported as an error.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !p.ended() {
		return err
	}
	err := p.Wait(ctx)
	if _, ok := errors.AsType[*ExitError](err); ok {
		return nil
	}
	return err
}

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end: nil for exit status 0, *ExitError for another end,
// another error when the node is gone. The context's end ends only the wait.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close gives the process up: its whole group is killed in the node.
func (p *Process) Close() error {
	var err error
	p.closeOnce.Do(func() { err = p.stream.Close() })
	return err
}

// Run runs the command to its end, feeding stdin (may be nil) to it. Output
// is returned unless the command has writers of its own. When the context
// ends, the process group is killed.
func (c *Client) Run(ctx context.Context, cmd Command, stdin io.Reader) (stdout, stderr []byte, err error) {
	var o, e bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &o
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &e
	}
	p, err := c.Start(ctx, cmd)
	if err != nil {
		return nil, nil, err
	}
	defer p.Close()
	go func() {
		if stdin != nil {
			_, _ = io.Copy(p, stdin)
		}
		_ = p.CloseInput()
	}()
	if err = p.Wait(ctx); ctx.Err() != nil && !p.ended() {
		p.Close()
		return nil, nil, fmt.Errorf("%q: %w", cmd.Argv, err)
	}
	if failed, ok := errors.AsType[*ExitError](err); ok {
		failed.Stderr = e.Bytes()
	}
	return o.Bytes(), e.Bytes(), err
}

// Put writes a file in the node, with its directories. A file that is there
// is replaced, also while it is being executed.
func (c *Client) Put(ctx context.Context, path string, mode os.FileMode, r io.Reader) error {
	stream, stop, err := c.stream(ctx)
	if err != nil {
		return err
	}
	defer stop()
	defer stream.Close()
	out := &frameWriter{w: stream}
	err = out.writeJSON(frameRequest, request{Op: "put", Path: path, Mode: uint32(mode.Perm())})
	if err == nil {
		_, err = io.CopyBuffer(struct{ io.Writer }{kindWriter{out, frameInput}}, struct{ io.Reader }{r}, make([]byte, chunk))
	}
	if err == nil {
		err = out.write(frameInput, nil)
	}
	if err == nil {
		_, err = readReply(stream)
	}
	if err != nil {
		return fmt.Errorf("put %s: %w", path, because(ctx, err))
	}
	return nil
}

// Get reads a file of the node.
func (c *Client) Get(ctx context.Context, path string, w io.Writer) error {
	stream, stop, err := c.stream(ctx)
	if err != nil {
		return err
	}
	defer stop()
	defer stream.Close()
	out := &frameWriter{w: stream}
	if err := out.writeJSON(frameRequest, request{Op: "get", Path: path}); err != nil {
		return fmt.Errorf("get %s: %w", path, because(ctx, err))
	}
	if err := receive(stream, w); err != nil {
		return fmt.Errorf("get %s: %w", path, because(ctx, err))
	}
	return nil
}

// receive copies output frames to w until the reply.
func receive(stream io.Reader, w io.Writer) error {
	for {
		kind, payload, err := readFrame(stream)
		if err != nil {
			return noEOF(err)
		}
		if kind == frameOutput {
			if _, err := w.Write(payload); err != nil {
				return err
			}
			continue
		}
		var rep reply
		if err := json.Unmarshal(payload, &rep); err != nil {
			return err
		}
		if rep.Err != "" {
			return errors.New(rep.Err)
		}
		return nil
	}
}

// Dial connects to a socket of the node, as seen from the node: "unix" and
// "tcp" make sense. The peer's credentials are the agent's, root.
func (c *Client) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return c.DialAs(ctx, network, address, 0, 0)
}

// DialAs is Dial with the credentials of a user, who need not have an account.
func (c *Client) DialAs(ctx context.Context, network, address string, uid, gid uint32) (net.Conn, error) {
	stream, stop, err := c.stream(ctx)
	if err != nil {
		return nil, err
	}
	defer stop()
	out := frameWriter{w: stream}
	err = out.writeJSON(frameRequest, request{Op: "dial", Network: network, Address: address, UID: uid, GID: gid})
	if err == nil {
		_, err = readReply(stream)
	}
	if err != nil {
		stream.Close()
		return nil, fmt.Errorf("dial %s %s in the node: %w", network, address, because(ctx, err))
	}
	return stream, nil
}
