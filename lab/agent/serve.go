package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// Server is the node's half: it carries out what the host asks for.
type Server struct {
	session *yamux.Session
}

// NewServer begins a session on the stream. Serve does the work.
func NewServer(conn io.ReadWriteCloser) (*Server, error) {
	session, err := yamux.Server(conn, yamuxConfig())
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return &Server{session: session}, nil
}

// Serve answers the host until the stream ends, kills what is still running
// and returns. The error says why the stream ended; nil for a clean end.
func (s *Server) Serve() error {
	var jobs sync.WaitGroup
	defer jobs.Wait()
	for {
		stream, err := s.session.AcceptStream()
		if err != nil {
			s.session.Close()
			if hungUp(err) {
				return nil
			}
			return err
		}
		jobs.Go(func() {
			defer stream.Close()
			handle(stream)
		})
	}
}

// hungUp reports whether the error means that the other side has gone. Which error it
// is depends on who of yamux's goroutines notices first.
func hungUp(err error) bool {
	for _, end := range []error{io.EOF, io.ErrClosedPipe, net.ErrClosed, yamux.ErrSessionShutdown} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// Ask puts a question to the host and waits for its answer. The host's
// [Handler] gives it; its error comes back as an error.
func (s *Server) Ask(op string, args ...string) (string, error) {
	stream, err := s.session.OpenStream()
	if err != nil {
		return "", fmt.Errorf("agent: %w", err)
	}
	defer stream.Close()
	return ask(stream, request{Op: op, Argv: args})
}

// Close ends the session.
func (s *Server) Close() error { return s.session.Close() }

// handle does one job.
func handle(stream net.Conn) {
	out := &frameWriter{w: stream}
	var req request
	if err := readJSON(stream, frameRequest, &req); err != nil {
		return
	}
	// A failed write means that the host is gone, and with it whoever wanted the answer.
	switch req.Op {
	case "hello":
		_ = out.writeJSON(frameReply, reply{PID: os.Getpid()})
	case "exec":
		runProcess(stream, out, req)
	case "put":
		_ = out.writeJSON(frameReply, result(putFile(stream, req)))
	case "get":
		getFile(out, req)
	case "dial":
		dial(stream, out, req)
	default:
		_ = out.writeJSON(frameReply, reply{Err: fmt.Sprintf("unknown operation %q", req.Op)})
	}
}

func result(err error) reply {
	if err != nil {
		return reply{Err: err.Error()}
	}
	return reply{}
}

// runProcess starts the command, moves its streams and reports its end.
func runProcess(stream net.Conn, out *frameWriter, req request) {
	if len(req.Argv) == 0 {
		_ = out.writeJSON(frameReply, reply{Err: "no command"})
		return
	}
	cmd := exec.Command(req.Argv[0], req.Argv[1:]...)
	cmd.Env = append(os.Environ(), req.Env...)
	cmd.Dir = req.Dir
	// The process may write before the reply is out, which has to be first.
	replied := make(chan struct{})
	cmd.Stdout = heldWriter{replied, kindWriter{out, frameOutput}}
	cmd.Stderr = heldWriter{replied, kindWriter{out, frameErrors}}
	// A daemon left behind by the command holds its pipes open; its exit
	// is reported all the same.
	cmd.WaitDelay = 500 * time.Millisecond
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if req.UID != 0 || req.GID != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: req.UID, Gid: req.GID}
	}
	// Not cmd.StdinPipe: Wait would close it under the goroutine below.
	stdin, input, err := os.Pipe()
	if err != nil {
		_ = out.writeJSON(frameReply, result(err))
		return
	}
	defer input.Close()
	cmd.Stdin = stdin
	err = cmd.Start()
	stdin.Close()
	if err != nil {
		_ = out.writeJSON(frameReply, result(err))
		return
	}
	if err := out.writeJSON(frameReply, reply{PID: cmd.Process.Pid}); err != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	close(replied)
	go feedProcess(stream, cmd.Process, input)
	_ = out.writeJSON(frameExit, exitOf(cmd.Wait()))
}

// heldWriter lets nothing pass before open is closed.
type heldWriter struct {
	open <-chan struct{}
	w    io.Writer
}

func (h heldWriter) Write(b []byte) (int, error) {
	<-h.open
	return h.w.Write(b)
}

// feedProcess passes input and signals to the process until the host closes
// the stream, which is the order to end the whole process group.
func feedProcess(stream io.Reader, p *os.Process, input *os.File) {
	held := newBacklog()
	defer held.end()
	go held.pour(input)
	for {
		kind, payload, err := readFrame(stream)
		if err != nil {
			// Signal says that the process has been waited for already:
			// its number may belong to somebody else by now.
			if p.Signal(syscall.Signal(0)) == nil {
				_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
			}
			return
		}
		switch {
		case kind == frameInput && len(payload) == 0:
			held.end()
		case kind == frameInput:
			held.add(payload)
		case kind == frameSignal && len(payload) == 1:
			_ = p.Signal(syscall.Signal(payload[0]))
		}
	}
}

// exitOf translates what Wait said.
func exitOf(err error) exit {
	var failed *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return exit{}
	case errors.As(err, &failed):
		status := failed.Sys().(syscall.WaitStatus)
		if status.Signaled() {
			return exit{Code: -1, Signal: int(status.Signal())}
		}
		return exit{Code: status.ExitStatus()}
	default:
		return exit{Code: -1, Err: err.Error()}
	}
}

// putFile writes what comes in to a new file beside the path and renames it,
// so that a program that is running can be replaced.
func putFile(stream io.Reader, req request) error {
	if err := os.MkdirAll(filepath.Dir(req.Path), 0o755); err != nil {
		return drain(stream, err)
	}
	f, err := os.CreateTemp(filepath.Dir(req.Path), ".put-*")
	if err != nil {
		return drain(stream, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	for {
		kind, payload, err := readFrame(stream)
		if err != nil {
			return err
		}
		if kind != frameInput {
			return fmt.Errorf("frame %q while reading a file", kind)
		}
		if len(payload) == 0 {
			break
		}
		if _, err := f.Write(payload); err != nil {
			return drain(stream, err)
		}
	}
	if err := f.Chmod(os.FileMode(req.Mode).Perm()); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), req.Path)
}

// drain reads the rest of a file that can't be stored, so that the host,
// which is still sending, reaches the reply that says why.
func drain(stream io.Reader, cause error) error {
	for {
		_, payload, err := readFrame(stream)
		if err != nil || len(payload) == 0 {
			return cause
		}
	}
}

func getFile(out *frameWriter, req request) {
	f, err := os.Open(req.Path)
	if err == nil {
		defer f.Close()
		_, err = io.Copy(kindWriter{out, frameOutput}, f)
	}
	_ = out.writeJSON(frameReply, result(err))
}

// dial connects the stream with a socket of the node; after the reply it
// carries raw bytes.
func dial(stream net.Conn, out *frameWriter, req request) {
	conn, err := dialAs(req.Network, req.Address, int(req.UID), int(req.GID))
	if werr := out.writeJSON(frameReply, result(err)); err != nil {
		return
	} else if werr != nil {
		conn.Close()
		return
	}
	splice(stream, conn)
}

// dialAs connects with the ids of a user, which the other side sees in SO_PEERCRED.
// The ids are those of a thread of its own, which ends with its goroutine, because
// that never unlocks it.
func dialAs(network, address string, uid, gid int) (conn net.Conn, err error) {
	if uid == 0 {
		return net.Dial(network, address)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = takeIDs(uid, gid); err == nil {
			conn, err = net.Dial(network, address)
		}
	}()
	<-done
	return conn, err
}

// takeIDs makes the thread that of a user. The functions of package syscall would
// do it to all threads of the process.
func takeIDs(uid, gid int) error {
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS},
		{unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
		{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	return nil
}

// splice copies both ways until both directions have ended. The end of one
// direction is passed on where the kind of connection can say so.
func splice(stream, conn net.Conn) {
	defer conn.Close()
	var done sync.WaitGroup
	done.Go(func() {
		_, _ = io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, _ = io.Copy(stream, conn)
	stream.Close()
	done.Wait()
}
