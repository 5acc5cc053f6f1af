package main

import (
	"github.com/dlmlock/dlmlockd/process"
)

// connectionsOf returns how many connections the clients of one kind may have: most, but no more than
// a quarter of the file descriptors that are not kept for the rest of the program. There are three
// kinds: libvirt, root over Varlink, and all others over Varlink. So none of them can use up what the
// others need, however few descriptors there are. What the state file and the message bus need is kept
// from all of them together, and from locks, by the number of the descriptor (process.Reserved).
func connectionsOf(most int) int {
	usable, ok := process.Usable()
	if !ok {
		return most
	}
	return max(1, min(most, usable/4))
}
