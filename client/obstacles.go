package client

import (
	"cmp"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Obstacle is a granted lock that is in the way of another one.
type Obstacle struct {
	Node   uint32 // whose lock it is; 0: the node that was inspected
	LockID uint32 // on the node that was inspected; 0: not known
	Mode   string // granted
	// Who is the label or else the owner; for a lock of another node, the first bytes of it, as the
	// holder has published them. "": the lock has neither, or they are not known.
	Who string
	PID uint32 // of the process that the lock was taken by or for; 0 on another node
	UID uint32 // of the lock's user, who need not be known on another node; 0 there
}

// Obstacles returns the locks that are in the way of a lock in a mode: first those of the service
// that was asked, then those of other nodes. Every lock that is not in NL is in the way of EX. own
// selects the lock that is to be converted, which is not in its own way. The zero Selector selects
// no lock here, because it does not say which of several locks is meant.
//
// A node that does not keep the queues of the resource does not know the locks of other nodes. Then
// Obstacles returns the last holder in PW or EX as it has published itself, which may be out of
// date.
func (in *Inspection) Obstacles(mode string, own Selector) (all []Obstacle) {
	seen := map[uint32]bool{}
	for _, l := range in.Locks {
		seen[l.LockID] = l.LockID != 0 // the lock manager lists it, too
		if l.State == "acquiring" || own != (Selector{}) && own.Matches(&l) || !inWay(l.Mode, mode) {
			continue
		}
		all = append(all, Obstacle{0, l.LockID, l.Mode, cmp.Or(l.Label, l.Owner), l.PID, l.UID})
	}
	published := in.Holder
	for _, q := range in.Granted {
		if seen[q.LockID] || !inWay(q.Mode, mode) {
			continue
		}
		o := Obstacle{Node: q.Node, LockID: q.LockID, Mode: q.Mode}
		if published != nil && published.Node == q.Node && published.Who != "" {
			o.Who, published = published.Who, nil // the published text is that of one holder
		}
		all = append(all, o)
	}
	if h := published; len(all) == 0 && h != nil && h.Node != 0 && own == (Selector{}) && inWay(h.Mode, mode) {
		all = append(all, Obstacle{Node: h.Node, Mode: h.Mode, Who: h.Who})
	}
	return all
}

// inWay reports whether a lock held in one mode is in the way of the other mode. A mode that
// can't be parsed counts as in the way.
func inWay(held, wanted string) bool {
	h, err := dlm.ParseMode(held)
	w, err2 := dlm.ParseMode(wanted)
	return err != nil || err2 != nil || !dlm.Compatible(h, w)
}
