package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// client runs the tool, and is between its updater and the test.
type client struct {
	mu      sync.Mutex
	out     *json.Encoder
	conn    net.Conn // of the updater, or nil
	hold    int      // its number
	updater int      // its pid
	tool    int      // pid of the tool, or 0
	idle    chan struct{}
}

// betweenHolds is how long a client leaves the lock to others.
const betweenHolds = 100 * time.Millisecond

func runClient(name, socket string, tool []string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	c := &client{out: json.NewEncoder(os.Stdout), idle: make(chan struct{}, 1)}
	c.idle <- struct{}{}
	go c.obey()
	go c.accept(l)
	for {
		ended := c.runTool(name, tool)
		// A tool may have ended before what it ran: the next hold begins after both.
		<-c.idle
		c.idle <- struct{}{}
		if ended != nil {
			c.say(Message{Op: "ended", Error: ended.Error()})
		}
		time.Sleep(betweenHolds)
	}
}

func (c *client) say(m Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.out.Encode(m)
}

func (c *client) runTool(name string, tool []string) error {
	cmd := exec.Command(tool[0], tool[1:]...)
	cmd.Env = append(os.Environ(), "HELDSET_NAME="+name)
	stderr, err := os.CreateTemp("", "heldset-")
	if err != nil {
		return err
	}
	defer stderr.Close()
	defer os.Remove(stderr.Name())
	cmd.Stdout, cmd.Stderr = stderr, stderr // a file: what outlives the tool doesn't keep Wait waiting
	if err := cmd.Start(); err != nil {
		return err
	}
	c.mu.Lock()
	c.tool = cmd.Process.Pid
	c.mu.Unlock()
	err = cmd.Wait()
	c.mu.Lock()
	c.tool = 0
	c.mu.Unlock()
	if err != nil {
		text, _ := os.ReadFile(stderr.Name())
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(text)))
	}
	return err
}

// accept serves the updaters, one after the other.
func (c *client) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			fail(err)
		}
		<-c.idle
		c.mu.Lock()
		c.conn, c.updater = conn, peer(conn)
		c.hold++
		hold := c.hold
		c.mu.Unlock()
		for lines := json.NewDecoder(bufio.NewReader(conn)); ; {
			var m Message
			if lines.Decode(&m) != nil {
				break
			}
			m.Hold = hold
			c.say(m)
		}
		c.mu.Lock()
		c.conn, c.updater = nil, 0
		c.mu.Unlock()
		_ = conn.Close()
		c.say(Message{Op: "over", Hold: hold})
		c.idle <- struct{}{}
	}
}

// peer is the process at the other end.
func peer(conn net.Conn) int {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		fail(err)
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// obey does what the test says, until it ends.
func (c *client) obey() {
	for lines := json.NewDecoder(bufio.NewReader(os.Stdin)); ; {
		var m Message
		if err := lines.Decode(&m); err != nil {
			os.Exit(0)
		}
		c.mu.Lock()
		conn, hold, tool, updater := c.conn, c.hold, c.tool, c.updater
		c.mu.Unlock()
		switch m.Op {
		case "answer":
			if conn != nil && m.Hold == hold {
				_ = json.NewEncoder(conn).Encode(m)
			}
		case "stop":
			signal(syscall.SIGSTOP, family(tool, updater))
		case "cont":
			signal(syscall.SIGCONT, family(tool, updater))
		case "kill":
			signal(syscall.SIGKILL, family(tool, updater))
		case "killtool":
			signal(syscall.SIGKILL, []int{tool})
		}
	}
}

func signal(sig syscall.Signal, pids []int) {
	for _, pid := range pids {
		if pid > 0 {
			_ = syscall.Kill(pid, sig)
		}
	}
}

// family is the tool with all that it has started, from the top down, and the updater,
// which may have lost its parent.
func family(tool, updater int) []int {
	all := []int{}
	if tool > 0 {
		all = append(all, tool)
	}
	for i := 0; i < len(all); i++ {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		for _, list := range lists {
			text, _ := os.ReadFile(list)
			for _, field := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(field); err == nil {
					all = append(all, pid)
				}
			}
		}
	}
	if updater > 0 && !slices.Contains(all, updater) {
		all = append(all, updater)
	}
	return all
}
