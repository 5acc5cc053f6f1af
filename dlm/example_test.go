package dlm_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
)

// An engine is driven by calls that return at once and events that say how they ended. This one is
// the embedded lock manager; libdlm.New returns one for the kernel's.
func Example() {
	engine := local.New("host1")
	defer engine.Close()

	events := make(chan dlm.Event, 16)
	vms, err := engine.Create(context.Background(), "vms", func(ev dlm.Event) { events <- ev })
	if err != nil {
		fmt.Println(err)
		return
	}
	defer vms.Close()

	const first, second dlm.Cookie = 1, 2
	vms.Lock(first, "disk1", dlm.EX, 0)
	fmt.Println("first:", (<-events).Status)
	vms.Lock(second, "disk1", dlm.EX, dlm.NoQueue)
	fmt.Println("second, without waiting:", (<-events).Status)

	vms.Lock(second, "disk1", dlm.EX, 0)
	ev := <-events
	fmt.Println("the holder is told:", ev.Kind, ev.Mode)
	vms.Unlock(first, nil)
	fmt.Println("first:", (<-events).Status)
	fmt.Println("second:", (<-events).Status)

	// Output:
	// first: ok
	// second, without waiting: EAGAIN
	// the holder is told: blocking EX
	// first: EUNLOCK
	// second: ok
}

// The two steps in which a lock becomes persistent: it is requested without Persistent, and
// converted in place after the grant. Otherwise the death of its process would leave a lock that
// nobody knows of. The value block is written by the same conversion.
func ExampleLockspace_convert() {
	engine := local.New("host1")
	defer engine.Close()
	events := make(chan dlm.Event, 16)
	vms, err := engine.Create(context.Background(), "vms", func(ev dlm.Event) { events <- ev })
	if err != nil {
		fmt.Println(err)
		return
	}
	const cookie dlm.Cookie = 1
	vms.Lock(cookie, "disk1", dlm.EX, dlm.ValueBlock)
	granted := <-events
	vms.Convert(cookie, dlm.EX, dlm.Persistent|dlm.ValueBlock, &dlm.Value{42})
	<-events
	vms.Close() // as the end of the process would: the lock stays, as an orphan

	vms, err = engine.Open(context.Background(), "vms", func(ev dlm.Event) { events <- ev })
	if err != nil {
		fmt.Println(err)
		return
	}
	defer vms.Close()
	vms.Adopt(cookie, "disk1", dlm.EX, dlm.Persistent)
	adopted := <-events
	fmt.Println(adopted.Status, adopted.LockID == granted.LockID)

	vms.Convert(cookie, dlm.NL, dlm.Persistent, nil)
	<-events
	vms.Convert(cookie, dlm.EX, dlm.Persistent|dlm.ValueBlock, nil) // upward, so it reads
	fmt.Println("value:", (<-events).Value[0])

	// Output:
	// ok true
	// value: 42
}

func ExampleCompatible() {
	fmt.Println(dlm.Compatible(dlm.PR, dlm.PR), dlm.Compatible(dlm.PR, dlm.EX), dlm.Compatible(dlm.PW, dlm.CR))
	// Output: true false true
}

func ExampleParseMode() {
	m, _ := dlm.ParseMode("shared")
	fmt.Println(m)
	_, err := dlm.ParseMode("write")
	fmt.Println(errors.Is(err, dlm.ErrMode))
	// Output:
	// PR
	// true
}

// Errors are typed: a sentinel for what the caller may want to distinguish, and fields for the rest.
func ExampleError() {
	engine := local.New("host1")
	defer engine.Close()
	_, err := engine.Open(context.Background(), "vms", func(dlm.Event) {})
	var failed *dlm.Error
	if errors.As(err, &failed) && errors.Is(err, dlm.ErrNoLockspace) {
		fmt.Println(failed.Op, failed.Lockspace)
	}
	// Output: open vms
}
