// Command dlmload takes locks of the kernel's DLM on a node of the lab, to measure what they cost:
//
//	dlmload hold LOCKSPACE MODE       take all locks, then hold them until standard input ends
//	dlmload time LOCKSPACE MODE       take one lock after the other, and print the nanoseconds of each
//	dlmload convoy LOCKSPACE NAME WAITERS SECONDS
//	                                  let waiters pass on one lock in EX, and count the grants
//
// For hold and time, the names of the locks are lines of standard input, in hexadecimal, up to an empty
// line. hold and convoy print a line when they are ready. The time of a convoy begins when standard input
// ends, and its last line is the number of grants.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/libdlm"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dlmload:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage: dlmload hold|time LOCKSPACE MODE, or dlmload convoy LOCKSPACE NAME WAITERS SECONDS")

func run(args []string) error {
	if len(args) < 3 {
		return errUsage
	}
	engine, err := libdlm.New(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer engine.Close()
	l := &load{events: make(chan dlm.Event, maxEvents)}
	if l.space, err = engine.Open(context.Background(), args[1], l.sink); err != nil {
		return err
	}
	if args[0] == "convoy" {
		return l.convoy(args[2:])
	}
	mode, err := dlm.ParseMode(args[2])
	if err != nil {
		return err
	}
	in := bufio.NewReader(os.Stdin)
	names, err := readNames(in)
	if err != nil {
		return err
	}
	switch args[0] {
	case "hold":
		return l.hold(names, mode, in)
	case "time":
		return l.time(names, mode)
	}
	return errUsage
}

// maxEvents is more events than a load can have at once, because a sink must not block.
const maxEvents = 1 << 18

// load is a process with locks in one lockspace.
type load struct {
	space  dlm.Lockspace
	events chan dlm.Event
}

// sink passes on the ends of operations; nobody waits for blocking notifications.
func (l *load) sink(e dlm.Event) {
	if e.Kind != dlm.Blocking {
		l.events <- e
	}
}

// next waits for the next end of an operation.
func (l *load) next() (dlm.Event, error) {
	e := <-l.events
	if e.Kind != dlm.Completed {
		return e, errors.New("the lockspace is gone")
	}
	if !e.Status.OK() {
		return e, fmt.Errorf("%v: %v", e.Op, e.Status)
	}
	return e, nil
}

func readNames(in *bufio.Reader) ([]string, error) {
	var names []string
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF || line == "\n" {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		name, err := hex.DecodeString(line[:len(line)-1])
		if err != nil {
			return nil, err
		}
		names = append(names, string(name))
	}
}

// inFlight is how many requests are under way at once.
const inFlight = 256

// hold takes the locks with value blocks, as the service does.
func (l *load) hold(names []string, mode dlm.Mode, in io.Reader) error {
	for i, name := range names {
		if i >= inFlight {
			if _, err := l.next(); err != nil {
				return err
			}
		}
		l.space.Lock(dlm.Cookie(i+1), name, mode, dlm.NoQueue|dlm.ValueBlock)
	}
	for range min(len(names), inFlight) {
		if _, err := l.next(); err != nil {
			return err
		}
	}
	fmt.Println("holds", len(names))
	gone := make(chan error, 1)
	go func() { gone <- l.gone() }()
	go func() {
		_, err := io.Copy(io.Discard, in)
		gone <- err
	}()
	return <-gone
}

// gone returns when the node leaves the lockspace: it can leave only when no process has it open.
func (l *load) gone() error {
	for e := range l.events {
		if e.Kind == dlm.Closed {
			return nil
		}
	}
	return nil
}

func (l *load) time(names []string, mode dlm.Mode) error {
	out := bufio.NewWriter(os.Stdout)
	for i, name := range names {
		began := time.Now()
		l.space.Lock(dlm.Cookie(i+1), name, mode, dlm.NoQueue)
		if _, err := l.next(); err != nil {
			return err
		}
		fmt.Fprintln(out, time.Since(began).Nanoseconds())
	}
	return out.Flush()
}

// convoy queues the waiters. When standard input has ended, the time begins. Each waiter that has got
// the lock releases it and queues again, until the time is over.
func (l *load) convoy(args []string) error {
	if len(args) != 3 {
		return errUsage
	}
	waiters, err := strconv.Atoi(args[1])
	if err != nil || waiters < 1 || waiters > maxEvents/2 {
		return errUsage
	}
	seconds, err := strconv.Atoi(args[2])
	if err != nil {
		return errUsage
	}
	for i := range waiters {
		l.space.Lock(dlm.Cookie(i+1), args[0], dlm.EX, 0)
	}
	fmt.Println("queued", waiters)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	granted, err := l.passOn(args[0], time.Duration(seconds)*time.Second)
	if err != nil {
		return err
	}
	fmt.Println(granted)
	return nil // the end of the process ends the locks
}

// passOn lets the waiters pass the lock on for a time, and counts the grants.
func (l *load) passOn(name string, d time.Duration) (granted int, err error) {
	over := time.After(d)
	for {
		select {
		case <-over:
			return granted, nil
		case e := <-l.events:
			if e.Kind != dlm.Completed || !e.Status.OK() {
				return granted, fmt.Errorf("%v: %v", e.Op, e.Status)
			}
			if e.Op == dlm.OpLock {
				granted++
				l.space.Unlock(e.Cookie, nil)
			} else {
				l.space.Lock(e.Cookie, name, dlm.EX, 0)
			}
		}
	}
}
