// Package service runs dlmlockd on the nodes of a lab: the real program with
// the kernel's DLM, on the node's own message bus with the shipped policy.
//
// It owns the daemon's process and files on a node. It refuses to know what is
// done with the service.
//
// Concurrency: Start, Kill, Stop and End of one Service are called one after
// the other; the rest may be called from any goroutine.
package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/data"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
)

// Where things are in the nodes.
const (
	Program   = "/usr/local/sbin/dlmlockd"
	StateDir  = "/run/dlmlockd"
	StateFile = StateDir + "/state.toml"
	Config    = "/etc/dlmlockd.toml"
	BusSocket = "/run/dbus/system_bus_socket"

	policyFile = "/usr/share/dbus-1/system.d/org.example.DlmLock.conf"
)

// LogName is the artefact with what the daemons of a node have said, after the
// node's name and a dot.
const LogName = "dlmlockd"

// Build compiles the daemon with the kernel engine into a directory of this
// machine, with further build tags if any, and returns its path. The working
// directory must be inside the repository.
func Build(ctx context.Context, dir string, tags ...string) (string, error) {
	tags = append([]string{"libdlm", "godbus_no_tcp"}, tags...)
	path := filepath.Join(dir, strings.Join(append([]string{"dlmlockd"}, tags[2:]...), "-"))
	return path, Go(ctx, "build", "-trimpath", "-tags", strings.Join(tags, " "), "-o", path, "./cmd/dlmlockd")
}

// Go runs the go command in the main module, which is where the daemon is: the
// lab is a module of its own. Paths in its arguments must be absolute.
func Go(ctx context.Context, args ...string) error {
	root, err := lab.Repository()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// Service is the daemon on one node, running or not.
type Service struct {
	Node *lab.Node

	config string
	daemon *agent.Process // the last one started
}

// Install puts the daemon at hostPath, a configuration file with the given
// text and the bus policy on a node, and starts the message bus. It is called
// again after each boot of the node, which remembers nothing.
func Install(ctx context.Context, n *lab.Node, hostPath, config string) (*Service, error) {
	if err := n.Push(ctx, hostPath, Program); err != nil {
		return nil, err
	}
	for path, text := range map[string]string{policyFile: data.BusPolicy, Config: config} {
		if err := n.Put(ctx, path, 0o644, []byte(text)); err != nil {
			return nil, err
		}
	}
	if err := n.StartBus(ctx); err != nil {
		return nil, err
	}
	return &Service{Node: n, config: config}, nil
}

// Launch starts the daemon with further arguments and waits for nothing.
func (s *Service) Launch(ctx context.Context, args ...string) error {
	if s.Running() {
		return fmt.Errorf("%s: dlmlockd runs already", s.Node.Name)
	}
	argv := append([]string{Program, "--engine=dlm", "--config=" + Config, "--state-dir=" + StateDir}, args...)
	p, err := s.Node.Daemon(ctx, LogName, agent.Command{Argv: argv})
	if err != nil {
		return err
	}
	s.daemon = p
	return nil
}

// Start starts the daemon and returns when it answers on the bus.
func (s *Service) Start(ctx context.Context, args ...string) error {
	if err := s.Launch(ctx, args...); err != nil {
		return err
	}
	c, err := s.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	c.AutoStart(false)
	for {
		_, err := c.Status(ctx)
		if err == nil {
			return nil
		}
		if !errors.Is(err, client.NotRunning) && !errors.Is(err, client.NoAnswer) {
			return err
		}
		select {
		case <-s.daemon.Done():
			return fmt.Errorf("%s: dlmlockd ended: %w", s.Node.Name, s.daemon.Wait(ctx))
		case <-ctx.Done():
			return fmt.Errorf("%s: dlmlockd does not answer: %w", s.Node.Name, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Running reports whether the daemon's process is there.
func (s *Service) Running() bool {
	if s.daemon == nil {
		return false
	}
	select {
	case <-s.daemon.Done():
		return false
	default:
		return true
	}
}

// Kill ends the daemon as kill -9 does, and returns when it is gone.
func (s *Service) Kill(ctx context.Context) error { return s.daemon.Kill(ctx) }

// Stop ends the daemon in order.
func (s *Service) Stop(ctx context.Context) error {
	if err := s.daemon.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return s.daemon.Wait(ctx)
}

// PID is the number of the daemon's last process on its node.
func (s *Service) PID() int { return s.daemon.PID }

// Configure writes a configuration file, which the next daemon reads. Install
// writes its own again.
func (s *Service) Configure(ctx context.Context, config string) error {
	return s.Node.Put(ctx, Config, 0o644, []byte(config))
}

// Dial connects to the node's message bus, as root of the node.
func (s *Service) Dial(ctx context.Context) (*client.Client, error) { return s.DialAs(ctx, 0, 0) }

// DialAs connects to the node's message bus as a user.
func (s *Service) DialAs(ctx context.Context, uid, gid uint32) (*client.Client, error) {
	conn, err := s.Node.DialAs(ctx, "unix", BusSocket, uid, gid)
	if err != nil {
		return nil, err
	}
	return client.Over(ctx, &userConn{Conn: conn, uid: uid})
}

// userConn is a connection to a bus as a user of the node. Package client tells the
// bus that it is the user of this process, which the bus compares with whom it sees.
type userConn struct {
	net.Conn
	uid  uint32
	told bool
}

// Write replaces who the client says that it is, once.
func (c *userConn) Write(text []byte) (int, error) {
	const auth = "AUTH EXTERNAL "
	if c.told || !bytes.HasPrefix(text, []byte(auth)) {
		return c.Conn.Write(text)
	}
	c.told = true
	_, err := fmt.Fprintf(c.Conn, "%s%x\r\n", auth, strconv.FormatUint(uint64(c.uid), 10))
	return len(text), err
}
