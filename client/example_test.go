package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dlmlock/dlmlockd/client"
)

// Hold a lock for an owner while something is done, and pass its token to the storage.
func Example() {
	ctx := context.Background()
	c, err := client.Dial(ctx, "") // the system bus; the first call starts the service
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	want := client.Want{Lockspace: "vms", Resource: "disk1", Mode: "EX"}
	owner := "5f3c1f9e-66f0-4a9b-8f6d-2f8a3f1f0c11"
	grant, err := c.Acquire(ctx, want, client.Options{Owner: owner, Label: "web", Wait: 10 * time.Second})
	switch {
	case errors.Is(err, client.WouldBlock), errors.Is(err, client.Timeout):
		fmt.Println(err) // names the holder
		return
	case err != nil:
		fmt.Println(err)
		return
	}
	write(grant.Token)
	if err := c.Release(ctx, want.Lockspace, want.Resource, client.Selector{Owner: owner}); err != nil {
		fmt.Println(err)
	}
}

// A program that starts again asks with the same owner, and gets the lock that it already has.
func ExampleClient_Acquire() {
	ctx := context.Background()
	c, err := client.Dial(ctx, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	want := client.Want{Lockspace: "vms", Resource: "disk1", Mode: "EX"}
	before, err := c.Acquire(ctx, want, client.Options{Owner: "backup"})
	if err != nil {
		fmt.Println(err)
		return
	}
	again, err := c.Acquire(ctx, want, client.Options{Owner: "backup"})
	fmt.Println(err == nil && again.LockID == before.LockID)
}

// Inspect shows who holds a resource, on this node and on others, and who waits.
func ExampleClient_Inspect() {
	ctx := context.Background()
	c, err := client.Dial(ctx, "")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	found, err := c.Inspect(ctx, "vms", "disk1")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, l := range found.Locks {
		fmt.Println(l.Mode, l.Owner, l.Label)
	}
	for _, w := range found.Waits {
		fmt.Printf("%+v\n", w)
	}
}

func write(token uint64) {}
