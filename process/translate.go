package process

import "errors"

// Translate returns the pid, in this program's namespace, of the process that the process caller
// knows as number. For a process outside of nested pid namespaces the two are the same. In a nested
// namespace the numbers of the caller itself and of its children can be translated, without any
// privilege; for others the error wraps ErrElsewhere, and ErrGone if the caller does not exist.
//
// A child is in the pid namespace of its parent or in one nested in that (pid_namespaces(7)), even
// if it was reparented; so a child with as many numbers as the parent is in the same one.
//
// seen is a time since boot, in clock ticks, at which the caller is known to have lived; 0 if no
// such time is known. A process that began later merely has its pid.
func (w *Watcher) Translate(caller, number uint32, seen uint64) (pid uint32, err error) {
	who, err := w.acquainted(caller)
	switch {
	case err != nil:
		return 0, err
	case seen != 0 && who.Start > seen:
		return 0, ErrGone
	case !who.Nested():
		return number, nil
	case who.own() == number:
		return caller, nil
	}
	children, err := w.sys.childrenOf(caller, mostChildren)
	if errors.Is(err, errTooMany) {
		return 0, ErrElsewhere
	}
	if err != nil {
		return 0, failed(caller, "/proc/PID/task", err)
	}
	for _, pid := range children {
		child, err := w.glance(pid)
		if err != nil || child.own() != number {
			continue // it is not the one that can be found
		}
		if child, err = w.look(pid); err != nil {
			continue
		}
		if child.Parent == caller && len(child.Numbers) == len(who.Numbers) && child.own() == number {
			return pid, w.unchanged(who)
		}
	}
	return 0, ErrElsewhere
}

// mostChildren bounds what one call may cost: how many threads and how many children of the caller it
// looks at.
const mostChildren = 4096

// glance reads the numbers of a process that may not be the one that is meant.
func (w *Watcher) glance(pid uint32) (Info, error) {
	info := Info{ID: ID{PID: pid}}
	return info, w.sys.parse(pid, "status", info.parseStatus)
}

// unchanged checks that a pid still belongs to the same process.
func (w *Watcher) unchanged(who Info) error {
	now, err := w.look(who.PID)
	if err == nil && now.ID != who.ID {
		err = ErrGone
	}
	return err
}

// Start does what the function Start does. It reads /proc only if the process is not watched: as
// long as its pidfd is not readable, the process has its pid.
func (w *Watcher) Start(pid uint32) (uint64, error) {
	w.mu.Lock()
	x := w.living(pid)
	if x != nil {
		defer w.mu.Unlock()
		return x.info.Start, nil
	}
	w.mu.Unlock()
	return w.sys.start(pid)
}

// acquainted is look for what never changes of a process: who it is, and its numbers. It is watched
// from then on for as long as there is room for idle watches, so that the next call of the same
// caller costs little.
func (w *Watcher) acquainted(pid uint32) (Info, error) {
	w.mu.Lock()
	if x := w.living(pid); x != nil {
		defer w.mu.Unlock()
		return x.info, nil
	}
	w.mu.Unlock()
	fd, info, err := w.examine(pid)
	if err != nil {
		return info, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watches[info.ID] != nil || fd >= w.usable()/2 || w.mostIdle() == 0 || w.closed {
		_ = w.sys.close(fd)
		return info, nil
	}
	x := &watch{fd: -1}
	if w.arm(x, fd, info, info.UID, false) == nil {
		w.check(x)
	}
	return info, nil
}

// look examines a process without watching it.
func (w *Watcher) look(pid uint32) (Info, error) {
	fd, info, err := w.examine(pid)
	if err == nil {
		_ = w.sys.close(fd)
	}
	return info, err
}
