// Package teststate owns a state file in memory for tests, which fails on demand.
//
// It refuses to know how the real file looks, but for what that one refuses.
//
// Concurrency: the methods may be called from any goroutine. The fields are
// guarded by Mu.
package teststate

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/dlmlock/dlmlockd/state"
)

// Journal is a state file in memory. It folds the changes as the real one
// does at the next Open, and fails on demand.
type Journal struct {
	Mu     sync.Mutex
	Locks  map[uint64]state.Lock
	Spaces map[string]state.Lockspace
	next   uint64
	Fail   syscall.Errno // ENOSPC: nothing new fits; any other: nothing can be written
	Writes int
	OnDone func() // after each successful append
}

// New returns an empty one.
func New() *Journal {
	return &Journal{Locks: map[uint64]state.Lock{}, Spaces: map[string]state.Lockspace{}, next: 1}
}

// Append implements journal.File, as the next two do.
func (j *Journal) Append(changes []state.Change) error {
	j.Mu.Lock()
	defer j.Mu.Unlock()
	if j.Fail != 0 && (j.Fail != syscall.ENOSPC || j.fresh(changes)) {
		return j.Fail
	}
	j.Writes++
	for _, c := range changes {
		if err := Encodable(c); err != nil {
			return err
		}
	}
	for _, c := range changes {
		j.apply(c)
	}
	if j.OnDone != nil {
		j.OnDone()
	}
	return nil
}

// fresh reports whether changes take on what needs room to be ended.
func (j *Journal) fresh(changes []state.Change) bool {
	for _, c := range changes {
		switch c := c.(type) {
		case state.Lock:
			if c.Phase != state.Lost {
				return true
			}
		case state.Lockspace:
			if _, known := j.Spaces[c.Name]; !known && c.Phase != state.Left {
				return true
			}
		}
	}
	return false
}

// Health says what SetFail has set.
func (j *Journal) Health() error {
	j.Mu.Lock()
	defer j.Mu.Unlock()
	if j.Fail != 0 {
		return j.Fail
	}
	return nil
}

// Tend does nothing.
func (*Journal) Tend() {}

// Encodable refuses what the state file can't hold either.
func Encodable(c state.Change) error {
	ok := true
	switch c := c.(type) {
	case state.Lock:
		ok = c.ID != 0 && c.LockID != 0 && c.Mode.Valid() &&
			c.Phase >= state.Granted && c.Phase <= state.Lost && c.Phase != state.Gone
	case state.Mark:
		ok = c.ID != 0 && c.Phase <= state.Gone && (!c.HasMode || c.Mode.Valid())
	case state.Lockspace:
		ok = c.Phase >= state.Creating && c.Phase <= state.Left
	}
	if !ok {
		return fmt.Errorf("%w: %+v", state.ErrRecord, c)
	}
	return nil
}

func (j *Journal) apply(c state.Change) {
	switch c := c.(type) {
	case state.Lock:
		j.Locks[c.ID] = c
		j.next = max(j.next, c.ID+1)
	case state.Mark:
		l, ok := j.Locks[c.ID]
		if !ok {
			return
		}
		if c.Phase == state.Gone {
			delete(j.Locks, c.ID)
			return
		}
		if c.Phase != 0 {
			l.Phase = c.Phase
		}
		if c.HasMode {
			l.Mode, l.Token = c.Mode, c.Token
		}
		if c.Session != "" {
			l.Session, l.SessionBus = c.Session, c.SessionBus
		}
		j.Locks[c.ID] = l
	case state.Lockspace:
		if c.Phase != state.Left {
			j.Spaces[c.Name] = c
			return
		}
		delete(j.Spaces, c.Name)
		for id, l := range j.Locks {
			if l.Lockspace == c.Name && l.Phase != state.Lost {
				delete(j.Locks, id)
			}
		}
	}
}

// Contents is what the next start reads.
func (j *Journal) Contents(bootID string) state.Contents {
	j.Mu.Lock()
	defer j.Mu.Unlock()
	c := state.Contents{Header: state.Header{BootID: bootID}, NextID: j.next}
	for _, l := range j.Locks {
		c.Locks = append(c.Locks, l)
	}
	for _, s := range j.Spaces {
		c.Spaces = append(c.Spaces, s)
	}
	slices.SortFunc(c.Locks, func(a, b state.Lock) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(c.Spaces, func(a, b state.Lockspace) int { return cmp.Compare(a.Name, b.Name) })
	return c
}

// SetFail has what is written from now on fail; 0 ends that.
func (j *Journal) SetFail(fail syscall.Errno) {
	j.Mu.Lock()
	defer j.Mu.Unlock()
	j.Fail = fail
}
