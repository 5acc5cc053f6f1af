package scale

import "slices"

// Resource is one on which nodes have locks.
type Resource struct {
	Name string
	// Master is the node that keeps the queues: the first that had a lock.
	Master uint32
	// Holders has a node for each of its locks.
	Holders []uint32
}

// Traffic is a number of messages and their bytes.
type Traffic struct{ Messages, Bytes int }

func (t *Traffic) add(messages, bytes int) {
	t.Messages += messages
	t.Bytes += bytes
}

// Recovery is what the remaining nodes send when a node has left a lockspace, at least: a node that
// waits for a slower one repeats its status request, 20 ms after the first and then less and less
// often (wait_status_all and wait_status_low in fs/dlm/recover.c).
type Recovery struct {
	// Status are the requests by which the nodes find out that all have reached a step, with replies.
	Status Traffic
	// Names are the requests by which each node collects its part of the directory again, with replies.
	Names Traffic
	// LookUps ask the directory for a new master in place of the node that has left, with replies.
	LookUps Traffic
	// Locks are sent to new masters, with replies.
	Locks Traffic

	// DirectoryEntries is how many names are in replies.
	DirectoryEntries int
	// Remastered is how many resources get a new master, counted by each node that has a lock on one.
	Remastered int
	// LocksSent is how many locks are sent to new masters.
	LocksSent int
	// GrantSteps is how many entries of its list of resources the busiest node passes, after it has
	// allowed new requests, to find those on which the node that has left had a lock: 6.12 begins at
	// the start of the list for each of them (find_grant_rsb in fs/dlm/lock.c).
	GrantSteps int
	// NameTrips is how often the busiest node waits for an answer with names, one after the other.
	NameTrips int
}

// Total is everything that is sent.
func (r Recovery) Total() Traffic {
	var t Traffic
	for _, part := range []Traffic{r.Status, r.Names, r.LookUps, r.Locks} {
		t.add(part.Messages, part.Bytes)
	}
	return t
}

// Leave returns the recovery after the node gone has left the lockspace. Resources and locks are
// those before it left.
func Leave(members []Member, gone uint32, resources []Resource) Recovery {
	var left []Member
	for _, m := range members {
		if m.ID != gone {
			left = append(left, m)
		}
	}
	l := leaving{gone: gone, directory: NewDirectory(left), replies: map[pair]*reply{}}
	for _, r := range resources {
		l.add(r)
	}
	n := len(left)
	l.status(n)
	l.names(left)
	l.grants(resources)
	return l.Recovery
}

// grants counts the steps to the resources whose master stays and that had a lock of the lost node. The
// newest resource is the first in the list of a node.
func (l *leaving) grants(resources []Resource) {
	position, steps := map[uint32]int{}, map[uint32]int{}
	for _, r := range slices.Backward(resources) {
		for i, h := range r.Holders {
			if !slices.Contains(r.Holders[:i], h) {
				position[h]++
			}
		}
		if r.Master != l.gone && slices.Contains(r.Holders, l.gone) {
			steps[r.Master] += position[r.Master]
			l.GrantSteps = max(l.GrantSteps, steps[r.Master])
		}
	}
}

// pair is a node that asks another one for names.
type pair struct{ asks, answers uint32 }

// reply is what one node sends to another one of its names.
type reply struct{ messages, room, asked int }

// leaving is a recovery that is being counted.
type leaving struct {
	Recovery
	gone      uint32
	directory Directory // of the nodes that remain
	replies   map[pair]*reply
}

// add counts what one resource costs.
func (l *leaving) add(r Resource) {
	directory := l.directory.Node(r.Name)
	if r.Master != l.gone {
		if r.Master != directory {
			l.name(pair{directory, r.Master}, len(r.Name))
		}
		return
	}
	// Each node that has a lock asks the directory for the new master, which is the directory node if
	// that has a lock itself, and else the node that asks first (recover_master; which of them is
	// first does not matter here).
	var master uint32
	asked := map[uint32]bool{}
	for _, h := range r.Holders {
		if h == l.gone || asked[h] {
			continue
		}
		asked[h] = true
		l.Remastered++
		if h == directory {
			master = h
			continue
		}
		l.LookUps.add(2, 2*(optsSize+rcomSize)+len(r.Name))
		if master == 0 {
			master = h
		}
	}
	for _, h := range r.Holders {
		if h != l.gone && h != master {
			l.LocksSent++
			l.Locks.add(2, 2*(optsSize+lockSize)+valueSize)
		}
	}
}

// name puts a name into a reply (dlm_copy_master_names in fs/dlm/dir.c).
func (l *leaving) name(p pair, length int) {
	l.DirectoryEntries++
	r := l.replies[p]
	if r == nil {
		r = &reply{messages: 1, room: namesRoom}
		l.replies[p] = r
	}
	if r.room < 2+length+2 {
		r.messages++
		r.asked += length // the next request has the last name
		r.room = namesRoom
	}
	r.room -= 2 + length
}

// status counts the requests of n nodes: each asks each other one once (ping_members), and in each
// of the four steps the node with the lowest number asks all others, and they ask it.
func (l *leaving) status(n int) {
	const steps = 4
	requests := n*(n-1) + steps*2*(n-1)
	slots := (n - 1) * n * slotSize // the node with the lowest number sends them in the first step
	l.Status.add(2*requests, requests*(statusSize+configSize)+slots)
}

// names counts the requests for names: each node asks each other one at least once.
func (l *leaving) names(left []Member) {
	for _, asks := range left {
		trips := 0
		for _, answers := range left {
			if asks == answers {
				continue
			}
			r := l.replies[pair{asks.ID, answers.ID}]
			if r == nil {
				r = &reply{messages: 1}
			}
			trips += r.messages
			l.Names.add(2*r.messages, r.messages*(optsSize+rcomSize+namesReplySize)+r.asked)
		}
		l.NameTrips = max(l.NameTrips, trips)
	}
}
