// Package client is for programs that want locks of dlmlockd: the members of
// the D-Bus interface org.example.DlmLock as Go functions, with typed results
// and errors.
//
//	c, err := client.Dial(ctx, "")
//	...
//	g, err := c.Acquire(ctx, client.Want{Lockspace: "vms", Resource: "disk1", Mode: "EX"}, client.Options{Owner: uuid})
//	if errors.Is(err, client.WouldBlock) { ... }
//
// It owns what goes over the bus and what the answers mean. It has no policy: the only
// thing that it does by itself is to call again if a wait is longer than one call may
// last. data/org.example.DlmLock.xml and org.example.DlmLock(5) describe the members.
//
// Concurrency: a Client may be used by any number of goroutines. Every call
// ends with its context; a call that ends so is withdrawn by Close at the
// latest, when the service sees that its caller has left the bus.
package client
