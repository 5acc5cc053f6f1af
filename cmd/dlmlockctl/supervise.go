package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/client"
)

// environment returns the variables that tell the command about its locks, and
// those that systemd meant for this process and that are the command's now: with
// LISTEN_PID it takes the sockets that it was given (sd_listen_fds(3)), and with
// WATCHDOG_PID it feeds the watchdog (sd_watchdog_enabled(3)).
func (h *hold) environment() []string {
	grants := h.held.Grants()
	g := grants[0]
	all, _ := json.Marshal(grants) // strings and numbers can't fail
	env := []string{
		"DLMLOCK_LOCKSPACE=" + g.Lockspace,
		"DLMLOCK_RESOURCE=" + g.Resource,
		"DLMLOCK_MODE=" + g.Mode,
		"DLMLOCK_TOKEN=" + strconv.FormatUint(g.Token, 10),
		"DLMLOCK_LOCKS=" + string(escapeJSON(all)),
	}
	for _, name := range []string{"LISTEN_PID", "WATCHDOG_PID"} {
		if os.Getenv(name) == strconv.Itoa(os.Getpid()) {
			env = append(env, fmt.Sprintf("%s=%d", name, h.child.pid()))
			if name == "LISTEN_PID" {
				env = append(env, "LISTEN_PIDFDID") // the same in another number; without it LISTEN_PID decides
			}
		}
	}
	return env
}

// countEvery is how often the command's processes are counted while they end.
const countEvery = 50 * time.Millisecond

// supervision is the state of run while the command runs.
type supervision struct {
	*hold
	lost  string // why the lock is gone; "" while it is held
	ended bool   // the command itself has ended

	toll   toll             // the processes that were ended, for the message
	looked error            // why the processes of the command could not be found
	grace  <-chan time.Time // when to send SIGKILL
	count  <-chan time.Time // when to count the processes again
	over   bool             // everything has been done to end them
}

// supervise makes the child the command, and waits for its end.
func (h *hold) supervise(ctx context.Context) error {
	signals, stop := h.child.catchSignals()
	defer stop()
	if err := context.Cause(ctx); err != nil { // a signal has come since the grant
		h.child.giveUp()
		return err
	}
	if err := h.child.becomeCommand(h.environment()); err != nil {
		h.child.giveUp()
		if s, ok := h.child.killed(); ok { // a signal was sent to the whole process group
			return interrupted{sig: s}
		}
		return exitWith(exitNoExec, err)
	}
	s := &supervision{hold: h}
	// A channel that was received from is set to nil, so the loop does not spin on it.
	done, lost := h.child.done, h.held.Lost()
	for !s.finished() {
		select {
		case <-done:
			done, s.ended = nil, true
		case sig := <-signals:
			h.child.pass(sig)
		case <-lost:
			lost = nil
			s.gone(h.held.Loss())
		case <-s.grace:
			s.kill()
		case <-s.count:
			s.look()
		}
	}
	return s.outcome()
}

// finished reports whether there is nothing left to wait for: the command has ended
// and, if the lock was lost, everything has been done to end its other processes.
func (s *supervision) finished() bool {
	return s.ended && (s.lost == "" || s.opts.onLost == lostWarn || s.over)
}

// gone is called with how the lock was lost. If the command has just ended, the service
// may have released the lock for that reason.
func (s *supervision) gone(loss *client.LossError) {
	why := loss.Reason
	if loss.How != client.LossReported {
		if s.lifetime == client.Process && s.child.over() {
			return
		}
		why += " (" + loss.Grant.Lockspace + "/" + loss.Grant.Resource + ")"
	}
	s.lost = why
	fmt.Fprintf(s.a.err, "dlmlockctl: the lock is lost: %s\n", visible(why))
	switch s.opts.onLost {
	case lostTerm:
		if s.looked = s.child.terminate(&s.toll); s.looked != nil {
			s.direct(s.child.term)
			return
		}
		if s.opts.grace.d >= 0 {
			s.grace = time.After(s.opts.grace.d)
		}
		s.count = time.After(0)
	case lostKill:
		s.kill()
	}
}

// look checks whether all processes have ended.
func (s *supervision) look() {
	s.count = time.After(countEvery)
	if family, err := s.child.family(); err != nil || len(family) == 0 {
		s.looked, s.over = err, true
		s.grace, s.count = nil, nil
	}
}

// kill sends SIGKILL to all processes, and waits for their end.
func (s *supervision) kill() {
	if s.looked = s.child.kill(&s.toll); s.looked != nil {
		s.direct(s.child.proc.Kill)
	}
	s.over, s.grace, s.count = true, nil, nil
}

// direct ends only the command's own process, if the others can't be found.
func (s *supervision) direct(end func() error) {
	if !s.child.ended() {
		_ = end()
	}
	s.over = true
}

// outcome is that of the command or, if the lock was lost, an error that says what
// became of the processes of the command. It reports a process as ended only if it has seen the
// end: a process in the kernel's uninterruptible sleep survives SIGKILL, and may still write.
func (s *supervision) outcome() error {
	if s.lost == "" || s.opts.onLost == lostWarn {
		return s.child.outcome()
	}
	text := "the command was ended because the lock was lost: " + s.lost
	switch {
	case s.looked != nil:
		text += fmt.Sprintf("; its other processes may still be running: %v", s.looked)
	case len(s.toll.left) > 0:
		text += "; still running: " + strings.Join(s.toll.left, ", ")
	}
	if !s.a.quiet {
		for _, part := range []struct {
			what string
			who  []process
		}{{"ended with SIGTERM", without(s.toll.told, s.toll.killed)}, {"ended with SIGKILL", s.toll.killed}} {
			if len(part.who) > 0 {
				fmt.Fprintf(s.a.err, "dlmlockctl: %s: %s\n", part.what, names(part.who))
			}
		}
	}
	return exitWith(exitLost, errors.New(text))
}

// mostNames is how many processes a message names at most.
const mostNames = 20

// names lists processes for a message.
func names(all []process) string {
	var words []string
	for _, p := range all[:min(len(all), mostNames)] {
		words = append(words, p.String())
	}
	if more := len(all) - len(words); more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, ", ")
}

// releaseTime is how long the release at the end may take.
const releaseTime = 30 * time.Second

// release releases the locks, and tries again while the service restarts. If they are
// tied to a process, the service releases them in any case.
func (a *app) release(h *client.Held) {
	ctx, cancel := context.WithTimeout(context.Background(), releaseTime)
	defer cancel()
	if err := h.Release(ctx); err != nil && h.Lifetime() == client.Persistent {
		fmt.Fprintf(a.err,
			"dlmlockctl: the lock could not be released: %s\ndlmlockctl: hint: dlmlockctl release-owner %s\n",
			visible(err.Error()), h.Owner())
	}
}
