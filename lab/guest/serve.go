package guest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/lab/agent"
)

// Serve runs the agent on the virtio-serial port until the host hangs up.
func Serve() error {
	port, err := openPort("/sys/class/virtio-ports", PortName)
	if err != nil {
		return err
	}
	server, err := agent.NewServer(&hostPort{File: port, since: time.Now()})
	if err != nil {
		return err
	}
	questions, err := net.Listen("unix", AskSocket)
	if err != nil {
		return err
	}
	defer questions.Close()
	go relayQuestions(questions, server)
	say("agent ready")
	return server.Serve()
}

// openPort finds the port by its name, as udev's link would, and opens it.
func openPort(class, name string) (*os.File, error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		got, err := os.ReadFile(filepath.Join(class, e.Name(), "name"))
		if err == nil && strings.TrimSpace(string(got)) == name {
			return os.OpenFile(filepath.Join("/dev", e.Name()), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no virtio-serial port %q", name)
}

// hostPort hides that the port reads as ended until the kernel has heard from
// QEMU that somebody is at the other end.
type hostPort struct {
	*os.File
	since time.Time
}

// connectGrace is how long an end of the port is not believed after its opening.
const connectGrace = 10 * time.Second

func (p *hostPort) Read(b []byte) (int, error) {
	for {
		n, err := p.File.Read(b)
		if n > 0 || !errors.Is(err, io.EOF) || time.Since(p.since) > connectGrace {
			return n, err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// question and answer cross AskSocket as one line of JSON each.
type question struct {
	Op   string   `json:"op"`
	Args []string `json:"args"`
}

type answer struct {
	Text string `json:"text"`
	Err  string `json:"err"`
}

// relayQuestions passes questions of the node's processes to the host.
func relayQuestions(l net.Listener, server *agent.Server) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var q question
			if json.NewDecoder(bufio.NewReader(conn)).Decode(&q) != nil {
				return
			}
			var a answer
			text, err := server.Ask(q.Op, q.Args...)
			if a.Text = text; err != nil {
				a.Err = err.Error()
			}
			_ = json.NewEncoder(conn).Encode(a)
		}()
	}
}

// Ask puts a question to the host from any process of the node.
func Ask(socket, op string, args ...string) (string, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(question{Op: op, Args: args}); err != nil {
		return "", err
	}
	var a answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return "", err
	}
	if a.Err != "" {
		return "", errors.New(a.Err)
	}
	return a.Text, nil
}

// Fence is a fence agent for dlm_controld: it has the host power off the node
// named on standard input (lines "key=value", see dlm.conf(5) and
// fence_node's convention) and returns nil only once the host confirms.
func Fence(input io.Reader, socket string) error {
	var node string
	lines := bufio.NewScanner(input)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(strings.TrimSpace(lines.Text()), "node="); ok {
			node = v
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if node == "" {
		return errors.New("fence: no node=N on standard input")
	}
	_, err := Ask(socket, "fence", node)
	return err
}
