package table

// Long work. What may take longer than a turn should is a chore: a function that
// does a part of it and reports whether there is more. The driver has parts done
// between two batches of what has come in, so everything else waits for one part
// at most, however many chores there are and however long they take.

// chores is the long work under way.
type chores struct{ work []func() (more bool) }

// chore does the first part of some work now, and leaves the rest to Chore.
func (x *chores) chore(part func() (more bool)) {
	if part() {
		x.work = append(x.work, part)
	}
}

// Busy reports whether there are chores.
func (x *chores) Busy() bool { return len(x.work) > 0 }

// Chore does the next part of a chore. The chores take turns.
func (x *chores) Chore() {
	if len(x.work) == 0 {
		return
	}
	part := x.work[0]
	x.work[0] = nil
	x.work = x.work[1:]
	x.chore(part)
}

// sliceLength is how many locks or calls a turn ends, at most.
const sliceLength = 32

// slices does something n times, as many times in a turn as sliceLength says,
// the first of them in this turn, and then calls done.
func (x *chores) slices(n int, do func(i int), done func()) {
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
	x.chore(part)
}
