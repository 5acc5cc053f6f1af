package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/console"
	"github.com/dlmlock/dlmlockd/lab/guest"
	"github.com/dlmlock/dlmlockd/lab/lan"
	"github.com/dlmlock/dlmlockd/lab/qemu"
)

// ErrDown is returned for a node that is not running.
var ErrDown = errors.New("the node is down")

// Node is one machine of the cluster. It may be off, and come back.
type Node struct {
	ID      int              // number, from 1; also corosync's and the DLM's node id
	Name    string           // host name
	Addr    string           // IPv4 address on the lab's Ethernet
	Console *console.Watcher // everything the machine ever wrote to its console

	cluster *Cluster
	files   []*os.File
	qemuLog io.Writer
	cables  *net.UnixListener // QEMU plugs its Ethernet in here
	ports   *net.UnixListener // QEMU plugs the agent's port in here
	netPath string
	prtPath string

	mu      sync.Mutex
	machine *qemu.Machine
	client  *agent.Client
}

// harmless are complaints of a kernel series about itself that no program
// causes or could prevent, and that come now and then (docs/dlm-notes.md).
var harmless = map[string]*regexp.Regexp{
	// Between the end of a node and the stop of its lockspaces, a message to
	// that node can't be sent: one of dlm_scand on 6.1, or a program's request.
	// And a message with a name that comes during a recovery is copied in one go
	// into a structure and the room behind it.
	"6.1":  regexp.MustCompile(`WARNING: .* (dlm_midcomms_get_mhandle|dlm_add_requestqueue)\+`),
	"6.12": regexp.MustCompile(`WARNING: .* dlm_midcomms_get_mhandle\+`),
}

// newNode prepares a node that is off.
func newNode(c *Cluster, id int) (n *Node, err error) {
	n = &Node{ID: id, Name: guest.Hostname(id), Addr: guest.Address(id), cluster: c, Console: &console.Watcher{}}
	logs := []struct {
		name string
		to   *io.Writer
	}{{filepath.Base(n.ConsolePath()), &n.Console.Log}, {n.Name + ".qemu", &n.qemuLog}}
	for _, l := range logs {
		f, err := os.Create(filepath.Join(c.artefacts, l.name))
		if err != nil {
			n.close()
			return nil, err
		}
		n.files = append(n.files, f)
		*l.to = f
	}
	n.Console.Found = func(f console.Finding) {
		c.config.Log.Error("lab: the kernel complains", "node", n.ID, "err", f.Line)
		if c.config.Found != nil {
			c.config.Found(n, f)
		}
	}
	if expr := harmless[c.config.Kernel]; expr != nil {
		n.Console.Expect(expr)
	}
	if n.cables, n.netPath, err = c.listen(n.Name + ".net"); err != nil {
		n.close()
		return nil, err
	}
	if n.ports, n.prtPath, err = c.listen(n.Name + ".port"); err != nil {
		n.close()
		return nil, err
	}
	go n.plugIn()
	return n, nil
}

// close frees what a node that is off holds.
func (n *Node) close() {
	for _, l := range []*net.UnixListener{n.cables, n.ports} {
		if l != nil {
			l.Close()
		}
	}
	for _, f := range n.files {
		f.Close()
	}
}

// plugIn connects every QEMU of this node with the switch, one after the other.
func (n *Node) plugIn() {
	for {
		conn, err := n.cables.Accept()
		if err != nil {
			return
		}
		if err := n.cluster.Net.Attach(n.ID, conn); err != nil {
			n.cluster.config.Log.Warn("lab: Ethernet", "node", n.ID, "err", err)
		}
	}
}

// Boot starts a node that is off and returns when it runs commands.
func (n *Node) Boot(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.machine != nil && !ended(n.machine) {
		return errors.New("the node is running already")
	}
	c := n.cluster
	params := guest.Params{ID: n.ID, Systemd: c.config.Systemd, Release: c.image.Release, Modules: c.image.Modules,
		Root: c.config.Root}
	m, err := qemu.Start(qemu.Config{
		Kernel: c.image.Kernel, Initrd: c.image.Initrd,
		Append:   params.CommandLine() + " " + c.config.KernelArgs,
		MemoryMB: c.config.MemoryMB, MAC: lan.MAC(n.ID).String(),
		NetSocket: n.netPath, PortSocket: n.prtPath, PortName: guest.PortName,
		RootTags: []string{guest.RootTag, guest.HostTag},
		Console:  n.Console, Errors: n.qemuLog, SharedMemory: c.config.SharedMemory,
	})
	if err != nil {
		return err
	}
	n.machine = m
	n.client, err = n.meet(ctx, m)
	if err != nil {
		_ = m.Kill()
		return fmt.Errorf("boot: %w", err)
	}
	c.config.Log.Info("lab: node is up", "node", n.ID, "after", time.Since(c.started))
	return nil
}

// meet waits until the agent of a starting machine answers.
func (n *Node) meet(ctx context.Context, m *qemu.Machine) (*agent.Client, error) {
	conn, err := n.acceptPort(ctx, m)
	if err != nil {
		return nil, err
	}
	client, err := agent.NewClient(conn, n.answer)
	if err != nil {
		conn.Close()
		return nil, err
	}
	if err := client.Hello(ctx); err != nil {
		client.Close()
		return nil, fmt.Errorf("no agent (see %s): %w", n.ConsolePath(), err)
	}
	return client, nil
}

// acceptPort waits for QEMU to plug the agent's port in, until the machine or
// the context ends.
func (n *Node) acceptPort(ctx context.Context, m *qemu.Machine) (net.Conn, error) {
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-m.Done():
		case <-ctx.Done():
		case <-stop:
			return
		}
		_ = n.ports.SetDeadline(time.Unix(1, 0))
	})
	conn, err := n.ports.Accept()
	close(stop)
	watch.Wait()
	_ = n.ports.SetDeadline(time.Time{})
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("qemu ended, see %s.qemu in %s: %w", n.Name, n.cluster.artefacts, err)
}

func ended(m *qemu.Machine) bool {
	select {
	case <-m.Done():
		return true
	default:
		return false
	}
}

// Up reports whether the machine is running.
func (n *Node) Up() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.machine != nil && !ended(n.machine)
}

// Gone returns a channel that is closed when the machine that runs now ends.
func (n *Node) Gone() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.machine == nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return n.machine.Done()
}

// Agent returns the client of the node's agent, or ErrDown.
func (n *Node) Agent() (*agent.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.client == nil || n.machine == nil || ended(n.machine) {
		return nil, fmt.Errorf("%s: %w", n.Name, ErrDown)
	}
	return n.client, nil
}

// ConsolePath is the file with everything the machine wrote to its console.
func (n *Node) ConsolePath() string {
	return filepath.Join(n.cluster.artefacts, n.Name+".console")
}

// Run runs a command and returns its standard output. A status other than 0
// is an *agent.ExitError, which has the end of standard error.
func (n *Node) Run(ctx context.Context, argv ...string) (string, error) {
	out, _, err := n.RunCommand(ctx, agent.Command{Argv: argv}, nil)
	return string(out), err
}

// Shell runs a line of sh.
func (n *Node) Shell(ctx context.Context, line string) (string, error) {
	return n.Run(ctx, "sh", "-c", line)
}

// RunCommand runs a command with everything that can be said about one.
func (n *Node) RunCommand(ctx context.Context, cmd agent.Command, stdin io.Reader) (stdout, stderr []byte, err error) {
	client, err := n.Agent()
	if err != nil {
		return nil, nil, err
	}
	stdout, stderr, err = client.Run(ctx, cmd, stdin)
	return stdout, stderr, n.named(err)
}

// Start starts a process whose streams the caller drives.
func (n *Node) Start(ctx context.Context, cmd agent.Command) (*agent.Process, error) {
	client, err := n.Agent()
	if err != nil {
		return nil, err
	}
	p, err := client.Start(ctx, cmd)
	return p, n.named(err)
}

// Daemon starts a process whose output goes to an artefact of the given name
// (node1.NAME). It runs until it ends by itself, or the node does.
func (n *Node) Daemon(ctx context.Context, name string, cmd agent.Command) (*agent.Process, error) {
	path := filepath.Join(n.cluster.artefacts, n.Name+"."+name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = f, f
	p, err := n.Start(ctx, cmd)
	if err != nil {
		f.Close()
		return nil, err
	}
	go func() {
		<-p.Done()
		// A daemon that ends in the middle of a test is what the test fails of,
		// mostly much later: how it ended is nowhere else.
		err := p.Wait(context.Background())
		fmt.Fprintf(f, "lab: ended: %v\n", err)
		if _, ended := errors.AsType[*agent.ExitError](err); ended || err == nil {
			n.cluster.config.Log.Info("lab: ended", "node", n.ID, "daemon", name, "err", err)
		}
		f.Close()
	}()
	return p, nil
}

// Put writes a file in the node.
func (n *Node) Put(ctx context.Context, path string, mode os.FileMode, body []byte) error {
	client, err := n.Agent()
	if err != nil {
		return err
	}
	return n.named(client.Put(ctx, path, mode, bytes.NewReader(body)))
}

// Push copies a file of the host to the node, where the cached root may still
// show an older one.
func (n *Node) Push(ctx context.Context, hostPath, path string) error {
	f, err := os.Open(hostPath)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	client, err := n.Agent()
	if err != nil {
		return err
	}
	return n.named(client.Put(ctx, path, info.Mode(), f))
}

// Get reads a file of the node.
func (n *Node) Get(ctx context.Context, path string) ([]byte, error) {
	client, err := n.Agent()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = client.Get(ctx, path, &b)
	return b.Bytes(), n.named(err)
}

// Dial connects to a socket in the node, as root of the node.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.DialAs(ctx, network, address, 0, 0)
}

// DialAs connects to a socket in the node as a user, who need not have an account.
func (n *Node) DialAs(ctx context.Context, network, address string, uid, gid uint32) (net.Conn, error) {
	client, err := n.Agent()
	if err != nil {
		return nil, err
	}
	conn, err := client.DialAs(ctx, network, address, uid, gid)
	return conn, n.named(err)
}

func (n *Node) named(err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}

// Crash pulls the plug. It returns when the machine is off; one that is off
// already is no error.
func (n *Node) Crash() error {
	n.mu.Lock()
	m, client := n.machine, n.client
	n.mu.Unlock()
	if m == nil {
		return nil
	}
	was := !ended(m)
	if err := m.Kill(); err != nil {
		return err
	}
	if client != nil {
		client.Close()
	}
	if was {
		n.cluster.config.Log.Info("lab: plug pulled", "node", n.ID)
	}
	return nil
}

// Panic makes the kernel crash (sysrq c) and waits until the machine is off.
func (n *Node) Panic(ctx context.Context) error {
	defer n.Expect(regexp.MustCompile(`sysrq triggered crash|Kernel panic|BUG: |Oops`))()
	return n.sysrq(ctx, "c")
}

// PowerOff switches the machine off without a shutdown (sysrq o), as a person
// at its button.
func (n *Node) PowerOff(ctx context.Context) error { return n.sysrq(ctx, "o") }

func (n *Node) sysrq(ctx context.Context, key string) error {
	gone := n.Gone()
	client, err := n.Agent()
	if err != nil {
		return err
	}
	// The write never returns when the machine ends at once.
	go func() {
		_, _, _ = client.Run(ctx, agent.Command{Argv: []string{"sh", "-c", "echo " + key + " > /proc/sysrq-trigger"}}, nil)
	}()
	select {
	case <-gone:
		return n.Crash() // tidies up
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Restart pulls the plug if need be and boots the node again.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Crash(); err != nil {
		return err
	}
	return n.Boot(ctx)
}

// Pause stops the machine in the middle of whatever it does; after Resume it
// goes on without having noticed. Meanwhile nothing in it answers.
func (n *Node) Pause() error { return n.withMachine((*qemu.Machine).Pause) }

// Resume ends a Pause.
func (n *Node) Resume() error { return n.withMachine((*qemu.Machine).Resume) }

func (n *Node) withMachine(do func(*qemu.Machine) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.machine == nil {
		return fmt.Errorf("%s: %w", n.Name, ErrDown)
	}
	return do(n.machine)
}

// Isolate cuts the node off from all others. The agent is still reachable.
func (n *Node) Isolate() {
	n.cluster.config.Log.Info("lab: isolate", "node", n.ID)
	for _, o := range n.cluster.nodes {
		n.cluster.Net.Isolate(n.ID, o.ID)
	}
}

// Expect declares kernel complaints matching the expression expected until the
// returned function is called.
func (n *Node) Expect(expr *regexp.Regexp) (stop func()) {
	end := n.Console.Expect(expr)
	return func() { end() }
}

// answer answers questions of the node's processes.
func (n *Node) answer(op string, args []string) (string, error) {
	if op != "fence" || len(args) != 1 {
		return "", fmt.Errorf("the host knows no %q %q", op, args)
	}
	return "", n.cluster.fence(n, strings.TrimSpace(args[0]))
}
