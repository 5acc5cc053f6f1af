package client

import (
	"bytes"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// documented returns the blocks of code in the package comment, in order.
func documented(t *testing.T) (blocks []string) {
	file, err := parser.ParseFile(token.NewFileSet(), "doc.go", nil, parser.ParseComments)
	require.NoError(t, err)
	for _, b := range new(comment.Parser).Parse(file.Doc.Text()).Content {
		if code, ok := b.(*comment.Code); ok {
			blocks = append(blocks, code.Text)
		}
	}
	require.Len(t, blocks, 5, "the code in the package comment: a lock, an election, a service, the start, an error")
	return blocks
}

// program builds a program from its text, as a stranger would.
func program(t *testing.T, text string) (path string) {
	dir := t.TempDir()
	path = filepath.Join(dir, "program")
	require.NoError(t, os.WriteFile(path+".go", []byte(text), 0o600))
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, path+".go").CombinedOutput()
	require.NoError(t, err, "%s\n%s", text, out)
	return path
}

// candidate is a running program for an election. It notes what is logged.
type candidate struct {
	*exec.Cmd
	lines chan string
}

func (r *real) candidate(path string) candidate {
	cmd := exec.CommandContext(r.t.Context(), path)
	cmd.Env = append(os.Environ(), AddressVariable+"="+r.socket)
	return watched(r.t, cmd)
}

func watched(t *testing.T, cmd *exec.Cmd) candidate {
	c := candidate{cmd, make(chan string, 100)}
	c.Stderr = c
	require.NoError(t, c.Start())
	return c
}

// Write has what the program logs, one line at a time.
func (c candidate) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		c.lines <- line
	}
	return len(p), nil
}

// Two of the program in the package comment: one leads, and the other one when the first
// has ended, by a signal, by kill, or because its lock was released by somebody else.
func TestElectionOfThePackageComment(t *testing.T) {
	path := program(t, documented(t)[1])
	r := startReal(t)
	c := r.open(true)
	e := &Election{Client: c, Lockspace: "vms", Resource: "scheduler"}
	waiting := func() bool {
		waits, err := c.Waits(t.Context(), Filter{Resource: "scheduler"})
		require.NoError(t, err)
		return len(waits) > 0
	}
	one := r.candidate(path)
	require.Contains(t, <-one.lines, "elected")
	two := r.candidate(path)
	require.Eventually(t, waiting, patience, 5*time.Millisecond)
	before, err := e.Leader(t.Context())
	require.NoError(t, err)
	host, err := os.Hostname()
	require.NoError(t, err)
	require.Equal(t, host, before.Label)

	require.NoError(t, one.Process.Signal(syscall.SIGTERM))
	require.NoError(t, one.Wait())
	require.Contains(t, <-one.lines, "not the leader any more")
	require.Contains(t, <-two.lines, "elected")
	after, err := e.Leader(t.Context())
	require.NoError(t, err)
	require.Greater(t, after.Token, before.Token)

	three := r.candidate(path)
	require.Eventually(t, waiting, patience, 5*time.Millisecond)
	require.NoError(t, c.Release(t.Context(), "vms", "scheduler", Selector{Token: after.Token}))
	require.Contains(t, <-two.lines, "is lost: somebody else released it")
	require.Contains(t, <-three.lines, "elected")
	require.Eventually(t, waiting, patience, 5*time.Millisecond, "the second is a candidate again")
	require.NoError(t, three.Process.Kill())
	_ = three.Wait()
	require.Contains(t, <-two.lines, "elected")

	// One that waits ends without a word.
	four := r.candidate(path)
	require.Eventually(t, waiting, patience, 5*time.Millisecond)
	require.NoError(t, four.Process.Signal(syscall.SIGTERM))
	require.NoError(t, four.Wait())
	require.Empty(t, four.lines)
	require.NoError(t, two.Process.Signal(syscall.SIGTERM))
	require.NoError(t, two.Wait())
}

// The commands of the package comment, with the program above them as the one that is run.
func TestCommandsOfThePackageComment(t *testing.T) {
	code := documented(t)
	path, dir := program(t, code[1]), t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "-tags", "godbus_no_tcp", "../cmd/dlmlockctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	shell := func(line string) *exec.Cmd {
		line = strings.NewReplacer("/tmp/dlmlock", dir+"/s", "dlmlockd ", daemonPath+" --config=/dev/null ",
			"go build -o candidate . && ", "", "./candidate", "exec "+path).Replace(line)
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		return cmd
	}
	service := shell("exec " + code[2])
	require.NoError(t, service.Start())
	defer func() {
		require.NoError(t, service.Process.Signal(syscall.SIGTERM))
		require.NoError(t, service.Wait())
	}()
	require.Eventually(t, func() bool {
		c := OpenVarlink(dir + "/s")
		defer c.Close()
		_, err := c.Status(t.Context())
		return err == nil
	}, patience, 5*time.Millisecond)
	join, run, ok := strings.Cut(code[3], "\n")
	require.True(t, ok)
	out, err = shell(join).CombinedOutput()
	require.NoError(t, err, "%s", out)
	one := watched(t, shell(run))
	require.Contains(t, <-one.lines, "elected")
	require.NoError(t, one.Process.Signal(syscall.SIGTERM))
	require.NoError(t, one.Wait())
}

// The lock of the package comment, in the function around it that the text leaves out.
func TestLockOfThePackageComment(t *testing.T) {
	code := documented(t)
	opened, taken, ok := strings.Cut(code[0], "...\n")
	require.True(t, ok)
	path := program(t, `package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/dlmlock/dlmlockd/client"
)

func backup(held context.Context) error {
	fmt.Println("backup", held.Err())
	return nil
}

func locked(ctx context.Context) error {
`+opened+"if err != nil {\nreturn err\n}\n"+taken+`}

func main() {
	err := locked(context.Background())
	`+strings.Replace(code[4], "...", `fmt.Println("somebody has it")`, 1)+`
	fmt.Println(err)
}
`)
	r := startReal(t)
	cmd := exec.CommandContext(t.Context(), path)
	cmd.Env = append(os.Environ(), AddressVariable+"="+r.socket)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	require.NoError(t, cmd.Run(), said.String())
	require.Equal(t, "backup <nil>\n<nil>\n", said.String())
}
