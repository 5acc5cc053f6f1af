package lockd

import "time"

// Long work of the owner goroutine. What may take longer than a turn should is
// a chore: a function that does a part of it and reports whether there is more.
// The loop does some parts between two batches of what has come in, so however
// many chores there are and however long they take, everything else waits for
// choreTime at the most, and for one part.

// choreTime is how long the loop does chores before it looks at what has come
// in.
const choreTime = 300 * time.Microsecond

// laterAction is a chore of the table's own.
type laterAction struct{ part func() (more bool) }

func (laterAction) action() {}

// sliceLength is how many locks or calls a turn ends, at most.
const sliceLength = 32

// slices does something n times, as many times in a turn as sliceLength says,
// the first of them in this turn, and then calls done.
func (t *table) slices(n int, do func(i int), done func()) {
	i := 0
	part := func() bool {
		for end := min(n, i+sliceLength); i < end; i++ {
			do(i)
		}
		if i < n {
			return true
		}
		done()
		return false
	}
	if part() {
		t.do(laterAction{part})
	}
}

// chore does the first part of some work now, and leaves the rest to the loop.
func (s *Service) chore(part func() (more bool)) {
	if part() {
		s.chores = append(s.chores, part)
	}
}

// doChores does parts of chores, of each in turns, for as long as choreTime.
func (s *Service) doChores() {
	for began := time.Now(); len(s.chores) > 0; {
		part := s.chores[0]
		s.chores[0] = nil
		s.chores = s.chores[1:]
		s.turn(func() {
			if part() {
				s.chores = append(s.chores, part)
			}
		})
		if time.Since(began) >= s.choreTime {
			return
		}
	}
}
