package lockd

// Long work of the owner goroutine. What may take longer than a turn should is
// a chore: a function that does a part of it and reports whether there is more.
// The loop does one part of one chore between two batches of what has come in,
// so however many there are and however long they take, everything else waits
// for one part at the most.

// chore does the first part of some work now, and leaves the rest to the loop.
func (s *Service) chore(part func() (more bool)) {
	if part() {
		s.chores = append(s.chores, part)
	}
}

// nextChore does a part of the chore that has waited the longest, which goes to
// the end if there is more of it.
func (s *Service) nextChore() {
	if len(s.chores) == 0 {
		return
	}
	part := s.chores[0]
	s.chores[0] = nil
	s.chores = s.chores[1:]
	s.turn(func() {
		if part() {
			s.chores = append(s.chores, part)
		}
	})
}
