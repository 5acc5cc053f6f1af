// Command demo-cluster tells the main job of dlmlockd step by step on two real
// nodes: QEMU machines with Debian's kernel, corosync, dlm_controld and the
// kernel's DLM. What it shows after a $ are the commands that it really runs on
// a node. It ends with status 0 if all of it is true.
//
// It owns its narration; package lab boots the nodes and package service runs
// the daemon on them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/console"
	"github.com/dlmlock/dlmlockd/lab/service"
)

func main() {
	kernel := flag.String("kernel", "6.12", "kernel series of the nodes, 6.1 or 6.12")
	daemon := flag.String("daemon", "bin/dlmlockd", "the daemon, built with the kernel engine")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo(ctx, *kernel, *daemon)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nThe demo FAILED: %v\n", err)
		os.Exit(1)
	}
}

// stepTime bounds one step. It is long, because emulated nodes on a busy
// machine are slow.
const stepTime = time.Minute

func demo(ctx context.Context, kernel, daemon string) error {
	say("Two machines with Debian's kernel %s are booted; corosync and dlm_controld make them a cluster", kernel)
	var complaint string
	c, err := lab.Boot(ctx, lab.Config{
		Kernel: kernel, Nodes: 2,
		Log:   slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: plain})),
		Found: func(n *lab.Node, f console.Finding) { complaint = n.Name + ": " + f.Line },
	})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.JoinDLM(ctx); err != nil {
		return err
	}
	t := &teller{ctx: ctx}
	for _, n := range c.Nodes() {
		s, err := service.Install(ctx, n, daemon, "lockspaces = [\"vms\"]\n")
		if err != nil {
			return err
		}
		t.services = append(t.services, s)
	}
	if t.tell(); t.err == nil && complaint != "" {
		t.err = errors.New("a kernel complained: " + complaint)
	}
	if t.err != nil {
		return fmt.Errorf("%w\nconsoles and logs are in %s", t.err, c.Artefacts())
	}
	return nil
}

// plain leaves out of a log line what is noise in the demo.
func plain(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
		return slog.Attr{}
	}
	return a
}

// tell is the story.
func (t *teller) tell() {
	say("The lock service is started on both nodes. It joins the lockspace \"vms\" of the kernel's DLM")
	t.start(1)
	t.start(2)
	t.run(1, 0, "dlm_tool ls vms")

	say("Node 1 locks the disk \"disk1\" exclusively, for the virtual machine \"web\"")
	lockid := field(t.call(1, 0, `Acquire 'sssa{sv}' vms disk1 EX 2 owner s web label s web-disk`), 1)
	fmt.Printf("  -> lockid %s\n", lockid)

	say("Node 2 wants it too, and is told who has it")
	t.names(t.call(2, 1, `Acquire 'sssa{sv}' vms disk1 EX 1 owner s db`), `node 1 (EX, "web-disk")`)

	say("The daemon of node 1 dies in the hardest way")
	t.kill(1)
	say("Nobody serves the lock on node 1 now, but the kernel keeps it: node 2 is still refused")
	t.names(t.call(2, 1, `Acquire 'sssa{sv}' vms disk1 EX 1 owner s db`), `node 1 (EX, "web-disk")`)

	say("The daemon of node 1 is started again, reads what it had recorded and takes its locks back")
	t.start(1)
	say("The same lock, under the same lockid")
	listed := t.call(1, 0, `ListLocks 'a{sv}' 1 owner s web`)
	t.check(strings.Contains(listed, fmt.Sprintf(`"vms" "disk1" %s "EX"`, lockid)),
		"the lock is not listed under lockid "+lockid)

	say("Node 1 releases it, by name and owner")
	t.call(1, 0, `Release 'ssa{sv}' vms disk1 1 owner s web`)
	say("Now node 2 gets it, and node 1 does not")
	t.call(2, 0, `Acquire 'sssa{sv}' vms disk1 EX 2 owner s db label s db-disk`)
	t.names(t.call(1, 1, `Acquire 'sssa{sv}' vms disk1 EX 1 owner s web`), `node 2 (EX, "db-disk")`)
	if t.err == nil {
		say("Done: locked on node 1, refused on node 2 by name, survived kill -9 under the same lockid, released, " +
			"granted on node 2.")
	}
}

// teller runs commands on the nodes and shows them. After the first error it
// does nothing more.
type teller struct {
	ctx      context.Context
	services []*service.Service // of node 1, 2
	err      error
}

var bold, unbold = func() (string, string) {
	if _, err := unix.IoctlGetTermios(int(os.Stdout.Fd()), unix.TCGETS); err == nil {
		return "\x1b[1m", "\x1b[0m"
	}
	return "", ""
}()

func say(format string, a ...any) {
	fmt.Printf("\n%s# %s%s\n", bold, fmt.Sprintf(format, a...), unbold)
}

// step bounds one step.
func (t *teller) step() (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(t.ctx, stepTime, fmt.Errorf("not done after %v", stepTime))
}

func (t *teller) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

func (t *teller) check(ok bool, otherwise string) {
	if !ok {
		t.fail(errors.New(otherwise))
	}
}

// names checks that a refusal names the holder.
func (t *teller) names(refusal, holder string) {
	t.check(strings.Contains(refusal, holder), "the refusal does not name "+holder)
}

func (t *teller) start(node int) {
	if t.err != nil {
		return
	}
	show(node, "dlmlockd &")
	ctx, cancel := t.step()
	defer cancel()
	if err := t.services[node-1].Start(ctx); err != nil {
		t.fail(err)
	}
}

func (t *teller) kill(node int) {
	if t.err != nil {
		return
	}
	s := t.services[node-1]
	show(node, fmt.Sprintf("kill -9 %d", s.PID()))
	ctx, cancel := t.step()
	defer cancel()
	if err := s.Kill(ctx); err != nil {
		t.fail(err)
	}
}

// call calls a member of the service with busctl, as anybody can.
func (t *teller) call(node, status int, member string) string {
	return t.run(node, status, "busctl call org.example.DlmLock /org/example/DlmLock org.example.DlmLock "+member)
}

// run runs a line of sh on a node, which is to end with the given status, and
// returns what it prints.
func (t *teller) run(node, status int, line string) string {
	if t.err != nil {
		return ""
	}
	show(node, line)
	ctx, cancel := t.step()
	defer cancel()
	out, err := t.services[node-1].Node.Shell(ctx, line+" 2>&1")
	code := 0
	if failed, ok := errors.AsType[*agent.ExitError](err); ok {
		code, err = failed.Code, nil
	}
	fmt.Print(out)
	switch {
	case err != nil:
		t.fail(err)
	case code != status:
		t.fail(fmt.Errorf("the command ended with status %d", code))
	}
	return out
}

func show(node int, line string) { fmt.Printf("node%d$ %s\n", node, line) }

var blanks = regexp.MustCompile(`\s+`)

// field is the n-th word of a line, from 0.
func field(line string, n int) string {
	words := blanks.Split(strings.TrimSpace(line), -1)
	if n < len(words) {
		return words[n]
	}
	return ""
}
