package lockd

import "time"

// choreTime is how long the loop does chores of the table before it looks at what
// has come in.
const choreTime = 300 * time.Microsecond

// doChores does parts of chores, for as long as choreTime.
func (s *Service) doChores() {
	for began := time.Now(); s.t.Busy(); {
		s.turn(s.t.Chore)
		if time.Since(began) >= s.choreTime {
			return
		}
	}
}
