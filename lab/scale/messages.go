package scale

// Sizes of what the DLM sends, in bytes, from the structures of fs/dlm/dlm_internal.h. TCP, IP and
// Ethernet come on top of them.
const (
	headerSize  = 16 // struct dlm_header
	optsSize    = 24 // struct dlm_opts, before every message but status requests and their replies
	messageSize = headerSize + 18*4
	rcomSize    = headerSize + 4 + 4 + 3*8
	statusSize  = rcomSize + 16           // struct rcom_status
	configSize  = rcomSize + 32           // struct rcom_config
	slotSize    = 16                      // struct rcom_slot, one for each node
	lockSize    = rcomSize + 9*4 + 8 + 64 // struct rcom_lock, without a value block
	valueSize   = 32                      // the value block
	// A reply with names always has this size, however few names are in it (receive_rcom_names).
	namesReplySize = 4096
	namesRoom      = namesReplySize - optsSize - rcomSize
)

// A Request is one for a new lock on a resource that the asking node knows nothing about.
type Request struct {
	Asker, Directory uint32
	// Master is the node that keeps the queues of the resource, 0 if no node has a lock on it.
	Master uint32
}

// RoundTrips is how often the asking node waits for an answer before it has a lock that is free.
//
// The directory node knows the master without a message (find_rsb_dir in fs/dlm/lock.c), the first
// node that looks a resource up becomes its master, and a directory node that is the master treats
// the look-up as the request (receive_lookup).
func (r Request) RoundTrips() int {
	switch {
	case r.Master == r.Asker, r.Master == 0 && r.Directory == r.Asker:
		return 0
	case r.Master == 0, r.Directory == r.Asker, r.Directory == r.Master:
		return 1
	}
	return 2
}

// Bytes is the size of the messages of a request for a name of that length, without a value block.
func (r Request) Bytes(name int) int {
	return r.RoundTrips() * (2*(optsSize+messageSize) + name)
}
