package process

import "slices"

// A process that is no longer needed stays watched for a while, since it is often needed again soon:
// a caller makes one call after the other, and a service takes a lock again and again. To examine it
// takes some ten system calls, of which those that read /proc are slow. What is asked of a process
// that is watched already is only whether its pidfd is readable.
//
// An idle watch counts for no user, and its end is reported to nobody.

// idles reports whether a watch may become idle. Where descriptors are scarce none does: they are
// given out from the lowest number on. The mutex is held.
func (w *Watcher) idles(x *watch) bool {
	return x.fd >= 0 && !x.over && !w.closed && x.fd < w.usable()/2 && w.mostIdle() > 0
}

func (w *Watcher) mostIdle() int { return min(w.most, w.usable()/8) }

// rest makes a watch idle, in the place of the one that was not needed for the longest time. The
// mutex is held.
func (w *Watcher) rest(x *watch) {
	w.uncount(x)
	x.idle, x.undetermined = true, false
	w.idle = append(w.idle, x)
	w.trim()
}

// trim ends the idle watches that are too many. The mutex is held.
func (w *Watcher) trim() {
	for len(w.idle) > w.mostIdle() {
		oldest := w.idle[0]
		w.disarm(oldest)
		delete(w.watches, oldest.info.ID)
	}
}

// need ends the rest of an idle watch, if there is room for one more process of the user. The mutex
// is held.
func (w *Watcher) need(x *watch, user uint32) error {
	if !x.idle {
		return nil
	}
	if err := w.room(x.fd, user, true); err != nil {
		return failed(x.info.PID, "watch", err)
	}
	w.count(x, user)
	return nil
}

// count ends the rest of a watch, which counts for the user from now on. The mutex is held.
func (w *Watcher) count(x *watch, user uint32) {
	w.leaveIdle(x)
	x.user = user
	w.users[user]++
}

// uncount undoes count. The mutex is held.
func (w *Watcher) uncount(x *watch) {
	if w.users[x.user]--; w.users[x.user] == 0 {
		delete(w.users, x.user)
	}
}

func (w *Watcher) leaveIdle(x *watch) {
	x.idle = false
	if i := slices.Index(w.idle, x); i >= 0 {
		w.idle = slices.Delete(w.idle, i, i+1)
	}
}
