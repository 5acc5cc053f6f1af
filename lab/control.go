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
	"strconv"
	"strings"
	"sync"

	"github.com/dlmlock/dlmlockd/lab/agent"
)

// ControlSocket is where a cluster in the foreground (labctl up) is reached:
// LAB_SOCKET, or labctl.sock in the cache directory.
func ControlSocket() (string, error) {
	if s := os.Getenv("LAB_SOCKET"); s != "" {
		return s, nil
	}
	cache, err := CacheDir()
	return filepath.Join(cache, "labctl.sock"), err
}

// ServeControl takes commands for the cluster on the listener until the
// context ends or somebody says "down". A connection begins with one line:
// "node N" makes it a stream to that node's agent, "do VERB [ARG...]" is
// answered with "ok TEXT" or "error TEXT".
func (c *Cluster) ServeControl(ctx context.Context, l net.Listener) error {
	ctx, down := context.WithCancel(ctx)
	defer down()
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			c.control(ctx, conn, down)
		}()
	}
}

func (c *Cluster) control(ctx context.Context, conn net.Conn, down func()) {
	line, err := readLine(conn)
	if err != nil {
		return
	}
	words := strings.Fields(line)
	if len(words) == 2 && words[0] == "node" {
		if err := c.relay(ctx, conn, words[1]); err != nil {
			fmt.Fprintf(conn, "error %v\n", err)
		}
		return
	}
	var text string
	err = errors.New("a line \"node N\" or \"do VERB\" was expected")
	if len(words) >= 2 && words[0] == "do" {
		text, err = c.command(ctx, words[1], words[2:])
	}
	if err != nil {
		fmt.Fprintf(conn, "error %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	fmt.Fprintf(conn, "ok %s\n", text)
	if words[1] == "down" {
		down()
	}
}

// relay joins the connection with a new stream of the node's agent.
func (c *Cluster) relay(ctx context.Context, conn net.Conn, id string) error {
	n, err := c.nodeNamed(id)
	if err != nil {
		return err
	}
	client, err := n.Agent()
	if err != nil {
		return err
	}
	stream, err := client.Open(ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "ok\n"); err != nil {
		stream.Close()
		return nil
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(stream, conn)
		stream.Close()
	})
	_, _ = io.Copy(conn, stream)
	conn.Close()
	both.Wait()
	return nil
}

func (c *Cluster) nodeNamed(id string) (*Node, error) {
	i, err := strconv.Atoi(id)
	if err != nil || i < 1 || i > len(c.nodes) {
		return nil, fmt.Errorf("no node %q, there are 1 to %d", id, len(c.nodes))
	}
	return c.Node(i), nil
}

// command carries out one verb.
func (c *Cluster) command(ctx context.Context, verb string, args []string) (string, error) {
	switch verb {
	case "down":
		return "", nil
	case "status":
		return c.status(), nil
	case "heal":
		c.Heal()
		return "", nil
	case "join":
		return "", c.JoinDLM(ctx)
	}
	perNode := map[string]func(*Node) error{
		"crash":    (*Node).Crash,
		"pause":    (*Node).Pause,
		"resume":   (*Node).Resume,
		"isolate":  func(n *Node) error { n.Isolate(); return nil },
		"restart":  func(n *Node) error { return n.Restart(ctx) },
		"poweroff": func(n *Node) error { return n.PowerOff(ctx) },
		"rejoin":   func(n *Node) error { return n.JoinDLM(ctx) },
	}
	do, ok := perNode[verb]
	if !ok || len(args) != 1 {
		return "", fmt.Errorf("unknown command %q with %d arguments", verb, len(args))
	}
	n, err := c.nodeNamed(args[0])
	if err != nil {
		return "", err
	}
	return "", do(n)
}

func (c *Cluster) status() string {
	var parts []string
	for _, n := range c.nodes {
		state := "up"
		if !n.Up() {
			state = "off"
		}
		if k := len(n.Console.Findings()); k > 0 {
			state += fmt.Sprintf(" (%d kernel complaints)", k)
		}
		parts = append(parts, n.Name+" "+state)
	}
	return c.Release() + ": " + strings.Join(parts, ", ")
}

// readLine reads a line byte by byte: what follows belongs to somebody else.
func readLine(r io.Reader) (string, error) {
	var line bytes.Buffer
	one := make([]byte, 1)
	for line.Len() < 4096 {
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return line.String(), nil
		}
		line.WriteByte(one[0])
	}
	return "", errors.New("the line is too long")
}

// Remote is a cluster that another process runs (labctl up).
type Remote struct{ socket string }

// Attach returns the cluster behind a control socket. Nothing is asked of it
// yet.
func Attach(socket string) *Remote { return &Remote{socket: socket} }

// Agent returns a client of one node's agent.
func (r *Remote) Agent(id int) *agent.Client {
	return agent.Over(func(ctx context.Context) (net.Conn, error) {
		conn, _, err := r.ask(ctx, "node "+strconv.Itoa(id))
		return conn, err
	})
}

// Do has the cluster carry out a verb: status, join, down, heal, and with a
// node number crash, poweroff, restart, rejoin, isolate, pause, resume.
func (r *Remote) Do(ctx context.Context, verb string, args ...string) (string, error) {
	conn, text, err := r.ask(ctx, strings.Join(append([]string{"do", verb}, args...), " "))
	if err == nil {
		conn.Close()
	}
	return text, err
}

// ask opens a connection with a line; an answer "ok" leaves it open.
func (r *Remote) ask(ctx context.Context, line string) (net.Conn, string, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", r.socket)
	if err != nil {
		return nil, "", fmt.Errorf("no cluster is up (labctl up): %w", err)
	}
	unhook := context.AfterFunc(ctx, func() { conn.Close() })
	defer unhook()
	answer, err := "", error(nil)
	if _, err = fmt.Fprintln(conn, line); err == nil {
		answer, err = readLine(conn)
	}
	if err != nil {
		conn.Close()
		return nil, "", err
	}
	word, text, _ := strings.Cut(answer, " ")
	if word != "ok" {
		conn.Close()
		return nil, "", errors.New(text)
	}
	return conn, text, nil
}
