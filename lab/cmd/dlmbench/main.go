// Command dlmbench does on a node what lab/bench/bare does, through the engine
// of dlmlockd or through the service, and prints the nanoseconds it took:
//
//	dlmbench engine pairs|grants|adopt|unlock LOCKSPACE N
//	dlmbench service pairs|pings|fill LOCKSPACE N
//
// Pings are two calls each that the service answers without doing anything.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/libdlm"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dlmbench:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("usage: dlmbench engine|service WHAT LOCKSPACE N")
	}
	n, err := strconv.Atoi(args[3])
	if err != nil || n <= 0 {
		return fmt.Errorf("%q is no number of turns", args[3])
	}
	var took time.Duration
	if args[0] == "service" {
		took, err = service(args[1], args[2], n)
	} else {
		took, err = engine(args[1], args[2], n)
	}
	if err != nil {
		return err
	}
	fmt.Println(took.Nanoseconds())
	return nil
}

// bench is one lock after the other on an open lockspace.
type bench struct {
	space dlm.Lockspace
	ended chan dlm.Event
}

func engine(what, lockspace string, n int) (time.Duration, error) {
	e, err := libdlm.New(slog.New(slog.DiscardHandler))
	if err != nil {
		return 0, err
	}
	defer e.Close()
	// Room for all: a sink must not block.
	b := &bench{ended: make(chan dlm.Event, 2*n+16)}
	b.space, err = e.Open(context.Background(), lockspace, func(ev dlm.Event) { b.ended <- ev })
	if err != nil {
		return 0, err
	}
	began := time.Now()
	switch what {
	case "pairs":
		err = repeat(n, b.pair)
	case "grants":
		err = repeat(n, b.grant)
	case "adopt":
		err = b.adopt(n)
	case "unlock":
		if err = b.adopt(n); err == nil {
			err = repeat(n, func(i int) error { b.space.Unlock(dlm.Cookie(i+1), nil); return b.end() })
		}
	default:
		err = fmt.Errorf("unknown: %q", what)
	}
	return time.Since(began), err
}

func repeat(n int, do func(i int) error) error {
	for i := range n {
		if err := do(i); err != nil {
			return err
		}
	}
	return nil
}

// end waits for the end of one operation.
func (b *bench) end() error {
	if ev := <-b.ended; !ev.Status.OK() {
		return fmt.Errorf("%v: %v", ev.Op, ev.Status)
	}
	return nil
}

func (b *bench) pair(int) error {
	b.space.Lock(1, "disk", dlm.EX, 0)
	if err := b.end(); err != nil {
		return err
	}
	b.space.Unlock(1, nil)
	return b.end()
}

func (b *bench) grant(int) error {
	v := dlm.Value{1}
	b.space.Lock(1, "disk", dlm.EX, dlm.ValueBlock)
	if err := b.end(); err != nil {
		return err
	}
	b.space.Convert(1, dlm.EX, dlm.Persistent|dlm.ValueBlock, &v)
	if err := b.end(); err != nil {
		return err
	}
	b.space.Unlock(1, &v)
	return b.end()
}

func (b *bench) adopt(n int) error {
	for i := range n {
		b.space.Adopt(dlm.Cookie(i+1), fmt.Sprintf("disk-%d", i), dlm.EX, dlm.Persistent)
	}
	return repeat(n, func(int) error { return b.end() })
}

func service(what, lockspace string, n int) (time.Duration, error) {
	ctx := context.Background()
	c, err := client.Dial(ctx, "")
	if err != nil {
		return 0, err
	}
	defer c.Close()
	began := time.Now()
	switch what {
	case "pairs":
		err = repeat(n, func(int) error { return pair(ctx, c, lockspace) })
	case "pings":
		service := c.Conn().Object(client.Name, client.Path)
		err = repeat(2*n, func(int) error { return service.CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err })
	case "fill":
		err = fill(ctx, c, lockspace, n)
	default:
		err = fmt.Errorf("unknown: %q", what)
	}
	return time.Since(began), err
}

func pair(ctx context.Context, c *client.Client, lockspace string) error {
	g, err := c.Acquire(ctx, client.Want{Lockspace: lockspace, Resource: "disk", Mode: "EX"}, client.Options{})
	if err != nil {
		return err
	}
	return c.Release(ctx, lockspace, "disk", client.Selector{LockID: g.LockID})
}

// fill takes n locks and keeps them.
func fill(ctx context.Context, c *client.Client, lockspace string, n int) error {
	const each = 500
	for first := 0; first < n; first += each {
		var want []client.Want
		for i := first; i < min(first+each, n); i++ {
			want = append(want, client.Want{Lockspace: lockspace, Resource: fmt.Sprintf("disk-%d", i), Mode: "EX"})
		}
		if _, err := c.AcquireMany(ctx, want, client.Options{}); err != nil {
			return err
		}
	}
	return nil
}
