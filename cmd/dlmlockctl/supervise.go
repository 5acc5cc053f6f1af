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

// environment is what the command learns of its locks, and what was meant for
// this process and is the command's now: with these numbers it takes the
// sockets that it was given (sd_listen_fds(3)) and feeds the watchdog
// (sd_watchdog_enabled(3)).
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

// How often a service is asked whether the locks are still there, since it says
// nothing of a release to the holder, and how often the command's processes are
// counted while they are to end.
const (
	askHeldEvery  = 2 * time.Second
	countEvery    = 50 * time.Millisecond
	heldAskedTime = 10 * time.Second
)

// supervision is what is known while the command runs.
type supervision struct {
	*hold
	lost  string // why the lock is gone; "" while it is there
	ended bool   // the command itself has ended

	toll   toll
	looked error            // why what the command has started could not be found
	grace  <-chan time.Time // then SIGKILL is sent
	count  <-chan time.Time
	over   bool // all has been done to end it
}

// supervise lets the child become the command, and waits for its end.
func (h *hold) supervise(ctx context.Context) error {
	signals, stop := h.child.catchSignals()
	defer stop()
	if err := context.Cause(ctx); err != nil { // a signal came in between
		h.child.giveUp()
		return err
	}
	if err := h.child.becomeCommand(h.environment()); err != nil {
		h.child.giveUp()
		if s, ok := h.child.killed(); ok { // by a signal to the whole process group
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

// finished reports whether there is nothing left to wait for: the command has
// ended and, if the lock was lost, all that could be done about the rest.
func (s *supervision) finished() bool {
	return s.ended && (s.lost == "" || s.opts.onLost == lostWarn || s.over)
}

// notHeld is called when the service has been asked and does not have the lock. If
// the command has ended by now, it may have been released for that.
func (s *supervision) notHeld(why string) {
	if s.lifetime != client.Process || !s.child.over() {
		s.gone(why)
	}
}

// gone is called when the lock is gone; "" says that it is not.
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

// look sees whether all have ended.
func (s *supervision) look() {
	s.count = time.After(countEvery)
	if family, err := s.child.family(); err != nil || len(family) == 0 {
		s.looked, s.over = err, true
		s.grace, s.count = nil, nil
	}
}

// kill sends SIGKILL to all, and waits for their end.
func (s *supervision) kill() {
	if s.looked = s.child.kill(&s.toll); s.looked != nil {
		s.direct(s.child.proc.Kill)
	}
	s.over, s.grace, s.count = true, nil, nil
}

// direct ends the command's process alone, where no other can be found.
func (s *supervision) direct(end func() error) {
	if !s.child.ended() {
		_ = end()
	}
	s.over = true
}

// outcome is the command's, or that of a lock that was lost, with what has
// become of what the command had started.
func (s *supervision) outcome() error {
	if s.lost == "" || s.opts.onLost == lostWarn {
		return s.child.outcome()
	}
	text := "the command was ended because the lock was lost: " + s.lost
	switch {
	case s.looked != nil:
		text += fmt.Sprintf("; what it has started may still be running: %v", s.looked)
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

// mostNames bounds how many processes a message names.
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

// askHeld asks again and again whether the locks are still there. The answer
// comes once, when one is not. An older service knows no objects of locks, and
// an answer that says nothing means nothing.
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

// released reports how one of the locks is less than what was granted; "" if all
// is well or not known.
func (h *hold) released(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, heldAskedTime)
	defer cancel()
	for _, g := range h.grants {
		mode, err := h.c.Held(ctx, g.Lock)
		name := g.Lockspace + "/" + g.Resource
		switch {
		case errors.Is(err, client.NotHeld) && h.missing() != "": // a service that ends may say the first
			return h.whyGone(ctx, g) + " (" + name + ")"
		case err == nil && mode != g.Mode:
			return fmt.Sprintf("somebody else converted it to %s (%s)", mode, name)
		}
	}
	return ""
}

// whyGone tells a lock that was lost, which not everybody hears of, from one that
// somebody has released.
func (h *hold) whyGone(ctx context.Context, g client.Grant) string {
	in, err := h.c.Inspect(ctx, g.Lockspace, g.Resource)
	if err != nil {
		return "it is not there any more"
	}
	for _, l := range in.Lost {
		if l.Lock == g.Lock {
			return l.Reason
		}
	}
	return "somebody else released it"
}

// lostBy reports why an event means that the lock is lost; "" if it does not.
func (h *hold) lostBy(e client.Event) string {
	switch e.Kind {
	case client.LockLost:
		for _, g := range h.grants {
			if g.Lock == e.Lock {
				return e.Reason
			}
		}
	case client.ServiceStarted:
		// Who may not see LockLost finds out here at the latest.
		return h.missing()
	}
	return ""
}

// missing asks a service that has come back whether it still has the locks.
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

// lostWithBus: without the bus nobody would tell. A lock that hangs on the
// process or on nothing stays.
func (h *hold) lostWithBus() string {
	if h.lifetime == client.Connection {
		return "the connection to the message bus is gone, and the lock has ended with it"
	}
	if !h.a.quiet {
		fmt.Fprintln(h.a.err, "dlmlockctl: the connection to the message bus is gone; the lock is still held, but its loss would go unnoticed")
	}
	return ""
}

// releaseTime bounds the release at the end; withdrawTime bounds it where a
// person or a service manager has asked this program to end at once.
const (
	releaseTime  = 30 * time.Second
	withdrawTime = 2 * time.Second
)

// letGo releases the locks, trying again while the service restarts. With the
// lifetime process the service does it by itself in the end.
func (h *hold) letGo() { h.release(h.c, releaseTime) }

// withdraw takes back a call that has not been answered. The service answers the
// calls of one connection one after the other, so this is said on another; the
// end of the first one takes the call out of the queue.
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
		return // with the bus the call is gone, and a lock of the child's with the child
	}
	defer func() { _ = c.Close() }()
	h.release(c, patience)
}

func (h *hold) release(c *client.Client, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c.AllowInteraction(false) // one's own lock needs nobody's leave
	err := client.Patiently(ctx, func() error {
		_, err := c.ReleaseOwner(ctx, "", h.owner)
		return err
	})
	if err != nil && h.lifetime == client.Persistent {
		fmt.Fprintf(h.a.err, "dlmlockctl: the lock could not be released: %s\ndlmlockctl: hint: dlmlockctl release-owner %s\n",
			visible(err.Error()), h.owner)
	}
}
