package frontend_test

import (
	"fmt"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// releasing is as much of a service as the example needs.
type releasing struct{ api.Service }

func (releasing) Lockspaces(done func([]api.LockspaceInfo, error)) { done(nil, nil) }

func (releasing) Release(c api.Caller, lockspace, resource string, _ api.Selector, done func(error)) {
	fmt.Println(c.Session, "of user", c.UID, "releases", lockspace+"/"+resource)
	done(&api.Error{Op: "release", Lockspace: lockspace, Resource: resource, Kind: api.NotHeld,
		Text: "no lock here matches", Hint: api.HintListLocks})
}

// call is a door's own type of a call, with what it needs to answer.
type call struct {
	frontend.Call
	method *frontend.Release
	done   chan struct{}
}

// words are how this door words errors.
var words = api.Wording{Hints: map[api.Hint]string{api.HintListLocks: "try LIST"}}

// Serve implements frontend.Handler: it is the call's turn.
func (c *call) Serve() { c.method.Run(&c.Call, c.answer) }

// Fail implements frontend.Handler.
func (c *call) Fail(err error) { c.answer(err) }

func (c *call) answer(err error) {
	if !c.Answer() {
		return // it has been answered
	}
	c.Release() // the client may call again as soon as it reads the answer
	n, _ := fmt.Println("answer:", words.Message(err))
	c.Sent(n)
	close(c.done)
}

// A door decodes a message into a method, submits it to the session of its
// connection, and encodes the answer.
func Example() {
	core := frontend.New(frontend.Config{})
	defer core.Close()
	core.Start(releasing{}) // lockd.Service, in the daemon
	door := core.Door(api.MakeSession("telnet", "example", ""), frontend.DoorConfig{Serial: true})
	session := door.OpenAs("7", frontend.Credentials{UID: 0})

	c := &call{done: make(chan struct{}), method: &frontend.Release{Lockspace: "vms"}}
	for i := range frontend.ReleaseOptions {
		if o := &frontend.ReleaseOptions[i]; o.Name == api.ArgOwner {
			_ = o.Set(c.method, "vm1")
		}
	}
	c.method.Resource = "disk1"
	c.Name, c.Size = "RELEASE", len("RELEASE vms disk1 owner=vm1")
	session.Submit(&c.Call, c, c.method)
	<-c.done
	// Output:
	// telnet:example/7 of user 0 releases vms/disk1
	// answer: release vms/disk1: no lock here matches; try LIST
}
