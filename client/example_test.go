package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dlmlock/dlmlockd/client"
)

// Do something that only one program in the cluster may do at a time.
func Example() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{}) // the first call starts the service
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	held, unlock, err := c.Lock(ctx, client.Want{Lockspace: "vms", Resource: "backup"}, client.Options{Label: "backup"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer unlock()
	if err := work(held); err != nil { // held ends when the lock is lost
		fmt.Println(err, context.Cause(held))
		return
	}
	fmt.Println("done")
	// Output: done
}

// Take a lock only if nobody else has it.
func ExampleClient_TryLock() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	report := client.Want{Lockspace: "vms", Resource: "report"}
	_, unlock, err := c.TryLock(ctx, report, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _, err = c.TryLock(ctx, report, client.Options{})
	fmt.Println("somebody else has it:", errors.Is(err, client.WouldBlock))
	fmt.Println("released:", unlock() == nil)
	// Output:
	// somebody else has it: true
	// released: true
}

// Take several locks, all or none, and wait for them for a minute at most.
func ExampleClient_LockAll() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	disks := []client.Want{{Lockspace: "vms", Resource: "disk1"}, {Lockspace: "vms", Resource: "disk2", Mode: "PR"}}
	held, unlock, err := c.LockAll(ctx, disks, client.Options{Wait: time.Minute})
	if errors.Is(err, client.Timeout) {
		fmt.Println(err) // names the holder
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer unlock()
	for _, g := range client.HeldBy(held).Grants() {
		fmt.Println(g.Resource, g.Mode)
	}
	// Output:
	// disk1 EX
	// disk2 PR
}

// Pass the fencing token along with each write, so that storage can refuse a holder
// that does not know yet that it has lost the lock.
func ExampleHeldBy() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	image := client.Want{Lockspace: "vms", Resource: "image"}
	var last uint64
	for range 2 {
		held, unlock, err := c.Lock(ctx, image, client.Options{})
		if err != nil {
			fmt.Println(err)
			return
		}
		token := client.HeldBy(held).Token()
		fmt.Println("larger than the last one:", token > last)
		last = token
		_ = unlock()
	}
	// Output:
	// larger than the last one: true
	// larger than the last one: true
}

// Read together with other readers, and then write alone.
func ExampleRWLock() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	config := &client.RWLock{Client: c, Lockspace: "vms", Resource: "config"}
	_, done, err := config.RLock(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	_, also, err := config.TryRLock(ctx)
	fmt.Println("another reader:", err == nil)
	_, _, err = config.TryLock(ctx)
	fmt.Println("no writer meanwhile:", errors.Is(err, client.WouldBlock))
	fmt.Println(errors.Join(done(), also()))
	// Output:
	// another reader: true
	// no writer meanwhile: true
	// <nil>
}

// Change from reading to writing without letting anybody else write in between.
func ExampleHeld_Convert() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	table := client.Want{Lockspace: "vms", Resource: "table", Mode: "PR"}
	held, unlock, err := c.Lock(ctx, table, client.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer unlock()
	table.Mode = "EX"
	err = client.HeldBy(held).Convert(ctx, table, 10*time.Second)
	fmt.Println(client.HeldBy(held).Grants()[0].Mode, err)
	// Output: EX <nil>
}

// Be the leader until the leadership is lost or the work is done.
func ExampleElection() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	c, err := client.Open(ctx, client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	e := &client.Election{Client: c, Lockspace: "vms", Resource: "scheduler", Options: client.Options{Label: "node-a"}}
	leading, err := e.Campaign(ctx) // waits until this one is elected
	if err != nil {
		fmt.Println(err)
		return
	}
	leader, err := e.Leader(ctx)
	fmt.Println("leader:", leader.Label, err)
	if err := work(leading); err != nil {
		fmt.Println("not the leader any more:", context.Cause(leading))
	}
	fmt.Println("resigned:", e.Resign() == nil)
	_, err = e.Leader(ctx)
	fmt.Println(err)
	// Output:
	// leader: node-a <nil>
	// resigned: true
	// there is no leader
}

// Let up to three programs in the cluster do something at the same time.
func ExampleSemaphore() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	transfers := &client.Semaphore{Client: c, Lockspace: "vms", Resource: "transfers", Places: 3}
	held, release, err := transfers.Acquire(ctx) // waits for a place
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(work(held), release())
	// Output: <nil> <nil>
}

// A program that starts again asks with the same owner, and gets the lock that it already
// has. Such a lock belongs to no process; it stays until it is released.
func ExampleClient_Acquire() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	want := client.Want{Lockspace: "vms", Resource: "volume", Mode: "EX"}
	owner := client.Options{Owner: "5f3c1f9e-66f0-4a9b-8f6d-2f8a3f1f0c11"}
	before, err := c.Acquire(ctx, want, owner)
	if err != nil {
		fmt.Println(err)
		return
	}
	again, err := c.Acquire(ctx, want, owner)
	fmt.Println(err == nil && again.LockID == before.LockID)
	fmt.Println(c.Release(ctx, "vms", "volume", client.Selector{Owner: owner.Owner}))
	// Output:
	// true
	// <nil>
}

// Inspect shows who holds a resource, on this node and on others, and who waits.
func ExampleClient_Inspect() {
	ctx := context.Background()
	c, err := client.Open(ctx, client.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	_, unlock, err := c.Lock(ctx, client.Want{Lockspace: "vms", Resource: "web"}, client.Options{Label: "the web server"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer unlock()
	found, err := c.Inspect(ctx, "vms", "web")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, l := range found.Locks {
		fmt.Println(l.Mode, l.State, l.Label)
	}
	fmt.Println("waiting:", len(found.Waiting))
	// Output:
	// EX held the web server
	// waiting: 0
}

// work stands for what is done under a lock. It stops when the lock is lost.
func work(held context.Context) error { return held.Err() }
