package frontend_test

import (
	"context"
	"fmt"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// call is a call of a door whose messages are Go values.
type call struct {
	frontend.Call
	acquire frontend.Acquire
	answer  chan string
}

// Serve runs the method at the call's turn.
func (c *call) Serve() {
	c.acquire.Run(&c.Call, func(g api.Grant, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.reply(fmt.Sprint("granted, token ", g.Token))
	})
}

// Fail words an error as this door does.
func (c *call) Fail(err error) { c.reply("refused: " + err.Error()) }

// reply answers once, whoever comes first.
func (c *call) reply(text string) {
	if !c.Answer() {
		return
	}
	c.Release()
	c.answer <- text
	c.Sent(len(text))
}

// grants stands in for the lock service.
type grants struct{ api.Service }

func (grants) Acquire(_ api.Caller, _ []api.Want, _ api.AcquireOptions, done func([]api.Grant, error)) {
	done([]api.Grant{{Token: 42}}, nil)
}
func (grants) Lockspaces(done func([]api.LockspaceInfo, error)) { done(nil, nil) }
func (grants) SessionGone(api.Session)                          {}
func (grants) Watch(bool)                                       {}

// A door decodes a message into a method struct, submits it to the session of its sender, and encodes
// the result. The order of calls, limits, turns, validation and authorisation are common to all doors.
func Example() {
	core := frontend.New(frontend.Config{})
	core.Start(grants{})
	door := core.Door(api.MakeSession("example", "1", ""), frontend.DoorConfig{})
	session := door.Open("client", func(context.Context) (frontend.Credentials, error) {
		return frontend.Credentials{UID: 0}, nil // a real door asks the kernel or the bus
	})
	defer session.Close()

	for _, resource := range []string{"disk1", ""} {
		c := &call{answer: make(chan string, 1)}
		c.acquire.Want = api.Want{Lockspace: "vms", Resource: resource, Mode: dlm.EX}
		session.Submit(&c.Call, c, &c.acquire)
		fmt.Println(<-c.answer)
	}

	// Output:
	// granted, token 42
	// refused: acquire vms: a resource name has at least one byte
}
