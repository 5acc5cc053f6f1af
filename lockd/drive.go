package lockd

import (
	"fmt"
	"runtime/debug"
	"time"
)

// Whoever brings an event carries it through: it adds a message to the inbox, and then
// drives. There are two roles, and one goroutine at a time has each:
//
//	the owner    gives the table the messages of the inbox, turn by turn, and carries out
//	             the actions of each turn. It does nothing that can be held up.
//	the writer   writes the records that the turns have asked for, and adds the outcome
//	             to the inbox (lockd/journal). It may be held up by the disk.
//
// A goroutine never has both, so a disk that stands still stops no turn. It takes a role
// only if nobody has it, and gives it back when there is nothing left to do. After that
// it looks once more: whoever came meanwhile, and found the role taken, has added what it
// brought before that, so nothing is left lying. So a call that nothing is in the way of
// is carried out by the goroutine that has read it, from its first turn to its answer;
// where several come at once, one of them does the turns of all, and the records that
// were asked for during a write become the next one.
//
// The goroutines of Run and of the journal do the rest: time, chores, messages of those
// who may not drive, and files that a device can hold up.

const (
	// maxRest is how long the goroutine of Run waits at most. It is shorter than the time that most
	// calls have, so their deadlines come after the alarm. With a later alarm, each call would wake
	// that goroutine, which would find the call answered and set the next alarm as late again.
	maxRest = 5 * time.Second
	// maxRounds is how often drive goes from one role to the other. A call needs three
	// rounds; whoever still finds something to do after these works for others, and has
	// an answer of its own to see to.
	maxRounds = 8
	// maxMessages is how many messages the owner takes before it gives the role back, so
	// that deadlines and chores come in between.
	maxMessages = 256
)

// drive takes each role in turn for as long as there is something to do and nobody
// else has it.
func (s *Service) drive() {
	for range maxRounds {
		s.takeTurns()
		if !s.journal.Work() {
			return
		}
	}
	s.takeTurns()
	s.inbox.Nudge()
	s.journal.Nudge()
}

// takeTurns gives the table what has come in, unless somebody does already. It leaves
// the rest to the goroutine of Run if that has no end.
func (s *Service) takeTurns() {
	for range maxRounds {
		if s.inbox.Empty() || !s.role.TryLock() {
			return
		}
		busy := s.own()
		s.role.Unlock()
		if busy {
			return
		}
	}
	s.inbox.Nudge()
}

// own does the turns of the messages that have come in, with the owner's role, and makes
// known what they have changed. It reports whether there are chores left, with which the
// goroutine of Run goes on.
func (s *Service) own() (busy bool) {
	defer failHard()
	s.serve(maxMessages)
	s.publish()
	busy = s.t.Busy()
	if at, ok := s.t.Next(); busy || s.t.Stopping() || ok && at.Before(s.alarm) {
		s.inbox.Nudge()
	}
	return busy
}

// serve does a part of the chores, if there are any, and then gives the table what has come
// in: about so many messages at most, and no more than came before the last turn where
// there are chores to be done. So chores and messages take turns, whoever has the role.
func (s *Service) serve(limit int) {
	s.doChores()
	for n := 0; n < limit; {
		batch := s.inbox.Take(s.spare).Items
		s.spare = batch // the queue has the other array now
		if len(batch) == 0 {
			return
		}
		n += len(batch)
		for i := range batch {
			m := &batch[i]
			if m.fn != nil {
				s.turn(m.fn)
			} else {
				s.turn(func() { s.t.Event(m.lockspace, m.ev) })
			}
			*m = message{}
		}
		if s.t.Busy() {
			return
		}
	}
}

// failHard ends the process if a turn panics: half a turn leaves a table that can't be
// relied on. The goroutine may be a front end's, which contains panics of its calls.
func failHard() {
	if v := recover(); v != nil {
		text := fmt.Sprintf("%v\n\n%s", v, debug.Stack())
		go panic(text)
		select {}
	}
}

// tend does what is due, with the owner's role: chores, deadlines, and with stop the
// beginning of the end. It returns how long there is nothing to do, and whether the
// service has come to its end.
func (s *Service) tend(stop bool) (idle time.Duration, ended bool) {
	s.role.Lock()
	defer s.role.Unlock()
	defer failHard()
	if stop {
		s.turn(s.t.Stop)
	}
	s.serve(maxMessages)
	at, ok := s.t.Next()
	if ok && !at.After(time.Now()) {
		s.turn(s.t.Tick)
		at, ok = s.t.Next()
	}
	s.publish()
	switch s.alarm = time.Now().Add(maxRest); {
	case s.t.Busy():
		s.alarm = time.Now()
	case ok && at.Before(s.alarm):
		s.alarm = at
	}
	return time.Until(s.alarm), s.t.Stopping() && s.t.Quiet()
}
