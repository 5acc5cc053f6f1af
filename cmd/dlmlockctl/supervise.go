package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
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
	g := h.grants[0]
	all, _ := json.Marshal(h.grants) // strings and numbers can't fail
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

// How often the service is asked whether the locks are still held, since it does not
// tell their holder of a release, and how often the command's processes are counted
// while they end.
const (
	askHeldEvery  = 2 * time.Second
	countEvery    = 50 * time.Millisecond
	heldAskedTime = 10 * time.Second
)

// supervision is the state of run while the command runs.
type supervision struct {
	*hold
	lost  string // why the lock is gone; "" while it is held
	ended bool   // the command itself has ended

	toll   toll
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
	gone, stopAsking := h.askHeld()
	defer stopAsking()
	s := &supervision{hold: h}
	done := h.child.done
	for !s.finished() {
		select {
		case <-done:
			done, s.ended = nil, true
		case sig := <-signals:
			h.child.pass(sig)
		case why := <-gone:
			s.notHeld(why)
		case e, ok := <-h.events:
			if ok && e.Kind == client.LockLost {
				s.gone(h.lostBy(e))
			} else if ok {
				s.notHeld(h.lostBy(e))
			} else {
				h.events = nil
				s.gone(h.lostWithBus())
			}
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

// notHeld is called when the service says that it does not have the lock. If the
// command has just ended, the service may have released the lock for that reason.
func (s *supervision) notHeld(why string) {
	if s.lifetime != client.Process || !s.child.over() {
		s.gone(why)
	}
}

// gone is called with the reason why the lock is gone; "" means that it is not.
func (s *supervision) gone(why string) {
	if why == "" || s.lost != "" {
		return
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
// became of the processes of the command.
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

// askHeld asks again and again whether the locks are still held, and sends one text
// when one of them is not. Any other failure says nothing; an older service has no
// objects of locks to ask about.
func (h *hold) askHeld() (gone <-chan string, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	told, done := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(askHeldEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if why := h.released(ctx); why != "" {
				told <- why
				return
			}
		}
	}()
	return told, func() {
		cancel()
		<-done
	}
}

// released reports why one of the locks is no longer what was granted; "" if it is,
// or if that is not known.
func (h *hold) released(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, heldAskedTime)
	defer cancel()
	for _, g := range h.grants {
		mode, err := h.c.Held(ctx, g.Lock)
		name := g.Lockspace + "/" + g.Resource
		switch {
		case errors.Is(err, client.NotHeld) && h.missing() != "": // a service that is ending may say NotHeld, too
			return h.whyGone(ctx, g) + " (" + name + ")"
		case err == nil && mode != g.Mode:
			return fmt.Sprintf("somebody else converted it to %s (%s)", mode, name)
		}
	}
	return ""
}

// whyGone says whether a lock was lost, which the bus does not report to everybody, or
// released by somebody else.
func (h *hold) whyGone(ctx context.Context, g client.Grant) string {
	in, err := h.c.Inspect(ctx, g.Lockspace, g.Resource)
	if err != nil {
		return "it no longer exists"
	}
	for _, l := range in.Lost {
		if l.Lock == g.Lock {
			return l.Reason
		}
	}
	return "somebody else released it"
}

// lostBy returns why an event means that the lock is lost; "" if it does not.
func (h *hold) lostBy(e client.Event) string {
	switch e.Kind {
	case client.LockLost:
		for _, g := range h.grants {
			if g.Lock == e.Lock {
				return e.Reason
			}
		}
	case client.ServiceStarted:
		// Those who may not see LockLost find out here at the latest.
		return h.missing()
	}
	return ""
}

// missing asks a service that was restarted whether it still has the locks.
func (h *hold) missing() string {
	ctx, cancel := h.a.bound(context.Background(), 0)
	defer cancel()
	locks, err := h.c.Locks(ctx, client.Filter{Owner: h.owner})
	locks = slices.DeleteFunc(locks, func(l client.Lock) bool { return l.State == "releasing" })
	if err != nil || len(locks) >= len(h.grants) {
		return ""
	}
	return "the service was restarted and no longer has it"
}

// lostWithBus returns why the lock is lost when the connection to the bus ends; "" if
// it is tied to the process, or to nothing, and so is still held.
func (h *hold) lostWithBus() string {
	if h.lifetime == client.Connection {
		return "the connection to the message bus is gone, and the lock has ended with it"
	}
	if !h.a.quiet {
		fmt.Fprintln(h.a.err, "dlmlockctl: the connection to the message bus is gone; "+
			"the lock is still held, but its loss would go unnoticed")
	}
	return ""
}

// releaseTime is how long the release at the end may take; withdrawTime is how long
// it may take when a signal has asked this program to end.
const (
	releaseTime  = 30 * time.Second
	withdrawTime = 2 * time.Second
)

// end releases the locks, and tries again while the service restarts. If they are tied
// to the process, the service releases them in any case.
func (h *hold) end() { h.release(h.c, releaseTime) }

// withdraw takes back a call that has not been answered. It closes the connection,
// which takes the call out of the queue, and releases over a new one, because the
// service answers the calls of one connection in order.
func (h *hold) withdraw(ctx context.Context) {
	_ = h.c.Close()
	patience := releaseTime
	if ctx.Err() != nil {
		patience = withdrawTime
	}
	dial, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(dial, h.a.bus)
	if err != nil {
		return // the call ended with the bus, and a lock of the child ends with the child
	}
	defer func() { _ = c.Close() }()
	h.release(c, patience)
}

func (h *hold) release(c *client.Client, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.AllowInteraction(false) // releasing one's own lock needs no password
	err := client.Patiently(ctx, func() error {
		_, err := c.ReleaseOwner(ctx, "", h.owner)
		return err
	})
	if err != nil && h.lifetime == client.Persistent {
		fmt.Fprintf(h.a.err,
			"dlmlockctl: the lock could not be released: %s\ndlmlockctl: hint: dlmlockctl release-owner %s\n",
			visible(err.Error()), h.owner)
	}
}
