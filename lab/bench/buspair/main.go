// Command buspair is the client of the lab's benchmark: it calls the service
// over the node's system bus, on the node. Commands come in as lines, and each
// is answered with one line, the nanoseconds that it took:
//
//	pair N RESOURCE   N times Acquire in EX and Release
//	empty N           N times two calls that the service answers with nothing
//	take N            acquire p0, p1, ... in EX, many at a time, for one owner
//
// It owns no measure but the time between two lines.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/client"
)

func main() {
	if err := serve(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "buspair:", err)
		os.Exit(1)
	}
}

const (
	lockspace = "vms"
	owner     = "bench"
	batch     = 500 // locks in one AcquireMany
)

func serve(ctx context.Context) error {
	c, err := client.Dial(ctx, "")
	if err != nil {
		return err
	}
	defer c.Close()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		n, err := strconv.Atoi(words[1])
		if err != nil {
			return err
		}
		began := time.Now()
		switch words[0] {
		case "pair":
			err = pairs(ctx, c, n, words[2])
		case "empty":
			err = empty(ctx, c, 2*n)
		case "take":
			err = take(ctx, c, n)
		}
		if err != nil {
			return err
		}
		fmt.Println(time.Since(began).Nanoseconds())
	}
	return lines.Err()
}

func pairs(ctx context.Context, c *client.Client, n int, resource string) error {
	for range n {
		if _, err := c.Acquire(ctx, client.Want{Lockspace: lockspace, Resource: resource, Mode: "EX"}, client.Options{Owner: owner}); err != nil {
			return err
		}
		if err := c.Release(ctx, lockspace, resource, client.Selector{Owner: owner}); err != nil {
			return err
		}
	}
	return nil
}

func empty(ctx context.Context, c *client.Client, n int) error {
	service := c.Conn().Object(client.Name, godbus.ObjectPath(client.Path))
	for range n {
		if err := service.CallWithContext(ctx, "org.freedesktop.DBus.Peer.Ping", 0).Err; err != nil {
			return err
		}
	}
	return nil
}

func take(ctx context.Context, c *client.Client, n int) error {
	for from := 0; from < n; from += batch {
		var want []client.Want
		for i := from; i < min(from+batch, n); i++ {
			want = append(want, client.Want{Lockspace: lockspace, Resource: fmt.Sprint("p", i), Mode: "EX"})
		}
		if _, err := c.AcquireMany(ctx, want, client.Options{Owner: owner}); err != nil {
			return err
		}
	}
	return nil
}
