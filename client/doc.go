// Package client is for programs that want locks of dlmlockd: the members of
// the D-Bus interface org.example.DlmLock as Go functions, with typed results
// and errors.
//
//	c, err := client.Dial(ctx, "")
//	...
//	g, err := c.Acquire(ctx, client.Want{Lockspace: "vms", Resource: "disk1", Mode: "EX"}, client.Options{Owner: uuid})
//	if errors.Is(err, client.WouldBlock) { ... }
//
// It owns what goes over the bus and what the answers mean. It refuses to know
// policy: it makes no decision for its user but one, to ask again where a wait
// is longer than one call may last. What the members do is told in
// data/org.example.DlmLock.xml and in org.example.DlmLock(5).
//
// Concurrency: a Client may be used by any number of goroutines. Every call
// ends with its context; a call that ends so is withdrawn by Close at the
// latest, when the service sees that its caller has left the bus.
package client
