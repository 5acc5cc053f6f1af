package state_test

import (
	"fmt"
	"os"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/state"
)

// A lock is recorded when it is granted, and marked when a client has been promised it. After the
// death of the process the next one finds both.
func Example() {
	dir, err := os.MkdirTemp("", "state")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	run := state.Options{Header: state.Header{BootID: "this boot", Engine: "local"}}

	file, found, err := state.Open(dir, run)
	if err != nil {
		fmt.Println(err)
		return
	}
	id := found.NextID
	err = file.Append([]state.Change{
		state.Lockspace{Name: "vms", Phase: state.Creating},
		state.Lockspace{Name: "vms", Phase: state.Joined, AnchorID: 1},
		state.Lock{ID: id, Lockspace: "vms", Resource: "disk1", LockID: 2, Mode: dlm.EX, Phase: state.Granted,
			Owner: "vm1", HasOwner: true, Since: time.Now()},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := file.Append([]state.Change{state.Mark{ID: id, Phase: state.Held}}); err != nil {
		fmt.Println(err)
		return
	}
	_ = file.Close()

	file, found, err = state.Open(dir, run)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, l := range found.Locks {
		fmt.Println(l.Lockspace, l.Resource, l.Mode, l.Phase, "for", l.Owner)
	}
	err = file.Append([]state.Change{state.Mark{ID: id, Phase: state.Releasing}, state.Mark{ID: id, Phase: state.Gone}})
	fmt.Println("released:", err == nil)
	_ = file.Close()

	// With another boot id the records are history: the locks have ended with the node.
	run.Header.BootID = "next boot"
	file, found, err = state.Open(dir, run)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer file.Close()
	fmt.Println(len(found.Locks), "locks, the next number is larger:", found.NextID > id)

	// Output:
	// vms disk1 EX held for vm1
	// released: true
	// 0 locks, the next number is larger: true
}
