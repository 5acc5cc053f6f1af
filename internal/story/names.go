package story

import (
	"fmt"
	"maps"
	"path"
	"time"

	godbus "github.com/godbus/dbus/v5"
)

// names are what a story calls things whose numbers differ from run to run. A
// lockid is a letter: the same letter means the same lock under the same lockid.
type names struct {
	letters int
	byLock  map[lockKey]named // by the service's number for a lock
	byID    map[idKey]string  // the letter that a lockid had last
	orphans map[idKey]bool    // lockids last seen without a lock of the service
	tokens  map[tokenKey]uint64
	ids     map[string]uint32 // the lockid of a letter
}

type (
	lockKey struct {
		node int
		lock string // the last part of its object path
	}
	idKey struct {
		node int
		id   uint32
	}
	tokenKey struct {
		node     int // 0: of all nodes
		resource string
	}
	named struct {
		id     uint32
		letter string
	}
)

func newNames() *names {
	return &names{byLock: map[lockKey]named{}, byID: map[idKey]string{}, orphans: map[idKey]bool{},
		tokens: map[tokenKey]uint64{}, ids: map[string]uint32{}}
}

// clone is for a look whose names count only if something is printed.
func (n *names) clone() *names {
	return &names{letters: n.letters, byLock: maps.Clone(n.byLock), byID: maps.Clone(n.byID),
		orphans: maps.Clone(n.orphans), tokens: maps.Clone(n.tokens), ids: maps.Clone(n.ids)}
}

// lock is the letter of a lock of the service. One that was seen as an orphan
// keeps its letter when it is adopted.
func (n *names) lock(node int, lock godbus.ObjectPath, id uint32) string {
	if id == 0 {
		return "none"
	}
	key := lockKey{node, path.Base(string(lock))}
	if known, ok := n.byLock[key]; ok && known.id == id {
		return known.letter
	}
	at := idKey{node, id}
	letter := n.byID[at]
	if letter == "" || !n.orphans[at] {
		letter = n.next(at)
	}
	delete(n.orphans, at)
	n.byLock[key] = named{id, letter}
	return letter
}

// purged forgets orphans that were removed.
func (n *names) purged(node int, ids []uint32) {
	for _, id := range ids {
		delete(n.orphans, idKey{node, id})
		delete(n.byID, idKey{node, id})
	}
}

// orphan is the letter of a lock that the service has no number for.
func (n *names) orphan(node int, id uint32) string {
	at := idKey{node, id}
	n.orphans[at] = true
	if n.byID[at] == "" {
		return n.next(at)
	}
	return n.byID[at]
}

func (n *names) next(at idKey) string {
	letter := string(rune('A' + n.letters%26))
	if n.letters >= 26 {
		letter += fmt.Sprint(n.letters / 26)
	}
	n.letters++
	n.byID[at], n.ids[letter] = letter, at.id
	return letter
}

// booted forgets the locks of a node that was started again.
func (n *names) booted(node int) {
	maps.DeleteFunc(n.byLock, func(k lockKey, _ named) bool { return k.node == node })
	maps.DeleteFunc(n.byID, func(k idKey, _ string) bool { return k.node == node })
	maps.DeleteFunc(n.orphans, func(k idKey, _ bool) bool { return k.node == node })
}

// stateLost forgets the service's numbers: a new state file begins to count anew.
func (n *names) stateLost(node int) {
	maps.DeleteFunc(n.byLock, func(k lockKey, _ named) bool { return k.node == node })
}

// token tells what the token of a resource did since the last one that this node
// got, or any node for node 0. Between nodes it may go back where nobody held the
// resource meanwhile: the kernel forgets the value block then.
func (n *names) token(node int, resource string, now uint64) string {
	key := tokenKey{node, resource}
	last := n.tokens[key]
	n.tokens[key] = now
	switch {
	case now == 0:
		return "no token"
	case now < last:
		return "token went back by " + (time.Duration(last-now) * time.Microsecond).String()
	case now == last:
		return "token same"
	}
	return "token larger"
}
