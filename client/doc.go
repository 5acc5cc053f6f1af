// Package client takes cluster-wide locks from dlmlockd. It uses D-Bus or Varlink,
// whichever is available.
//
// # Locks
//
// A lock is on a resource, any name of up to 64 bytes, in a lockspace that the node has
// joined (lockspaces in /etc/dlmlockd.toml, or "dlmlockctl join"):
//
//	c, err := client.Open(ctx, client.Config{})
//	...
//	defer c.Close()
//	held, unlock, err := c.Lock(ctx, client.Want{Lockspace: "vms", Resource: "backup"}, client.Options{})
//	if err != nil {
//		return err
//	}
//	defer unlock()
//	return backup(held)
//
// held is a context that ends when the lock is lost. A cluster-wide lock can be lost
// while its holder works: the node leaves the lockspace or loses the cluster, or an
// administrator releases the lock. context.Cause says which. TryLock does not wait,
// LockAll takes several locks or none, RWLock is for readers and writers, Election finds
// one leader, and Semaphore lets in several holders at a time. HeldBy returns the Held of
// a context, which has the fencing token and Convert.
//
// These locks end with the process: when it is killed, the service releases them. A
// restart of the service or of the message bus ends none. When a node dies, its locks
// become free once it has been fenced, not before.
//
// # Leader election
//
// This is a complete program. A second copy of it, on this node or on another one, waits
// until the first ends in any way:
//
//	package main
//
//	import (
//		"context"
//		"log"
//		"os"
//		"os/signal"
//		"syscall"
//
//		"github.com/dlmlock/dlmlockd/client"
//	)
//
//	func main() {
//		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//		defer stop()
//		c, err := client.Open(ctx, client.Config{})
//		if err != nil {
//			log.Fatal(err)
//		}
//		defer c.Close()
//		host, _ := os.Hostname()
//		e := &client.Election{Client: c, Lockspace: "vms", Resource: "scheduler",
//			Options: client.Options{Label: host}}
//		for {
//			leading, err := e.Campaign(ctx) // waits until this one is elected
//			if ctx.Err() != nil {
//				break
//			}
//			if err != nil {
//				log.Fatal(err)
//			}
//			log.Print("elected")
//			<-leading.Done() // do the work here, until this ends
//			log.Print("not the leader any more: ", context.Cause(leading))
//			if err := e.Resign(); err != nil {
//				log.Print(err)
//			}
//		}
//	}
//
// # Trying it
//
// One node without a cluster is enough. As root, start a service of your own in one terminal,
//
//	dlmlockd --engine=local --bus=none --varlink=/tmp/dlmlock --state-dir=/tmp/dlmlock.state
//
// and the program above in two others:
//
//	dlmlockctl --varlink=/tmp/dlmlock join vms
//	go build -o candidate . && DLMLOCK_ADDRESS=/tmp/dlmlock ./candidate
//
// The node's own service permits this to root, to the group that dlmlockd.toml names, and
// to users whom polkit allows it; others get an error of kind AccessDenied.
//
// # Errors
//
// Every error of the service is an *Error, whose kind errors.Is finds:
//
//	if errors.Is(err, client.WouldBlock) { ... }
//
// # The members of the interface
//
// Acquire, Convert, Release and the others are the members of the service's interface as
// Go functions: for locks that outlive the program, for an owner such as a virtual
// machine, and for everything that can be inspected. org.example.DlmLock(5) describes
// them. Each makes one call, unless it waits for longer than one call may last.
//
// # Inside the package
//
// It owns how the service is called, what the answers mean, and the watch over the locks
// of Hold (keeper.go, ask.go). It has no policy of its own. A transport is one way to the
// service (transport.go): bus*.go is D-Bus, varlink*.go is Varlink.
//
// Concurrency: a Client may be used by any number of goroutines. Every call ends with
// its context; over D-Bus, a call that ends so is withdrawn by Close at the latest, when
// the service sees that its caller has left the bus. A call of Hold, or of Convert of a Held,
// that waits has a connection of its own, and is withdrawn at once. Some goroutines watch the locks
// for as long as there are locks or calls of Hold; Close ends them. Over Varlink each watch has a
// connection of its own: one watch is for all locks whose owner the Client has made up, and there
// is one for each Options.Owner.
//
// docs/versioning.md says what stays the same.
package client
