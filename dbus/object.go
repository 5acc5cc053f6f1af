package dbus

import (
	"fmt"
	"strconv"
	"strings"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/data"
	"github.com/dlmlock/dlmlockd/frontend"
)

// MaxListed is how many objects of a kind GetManagedObjects and Introspect
// list, at most. For more there is ListLocks, which has pages.
const MaxListed = 1000

// kinds are the objects that come and go. The first interface of each is its
// own; the standard ones are added.
var kinds = []kind{
	{LockPrefix, &node{xml: data.LockIntrospection, look: lookLock, children: lockChildren,
		ifaces: []*iface{lockIface}}},
	{RequestPrefix, &node{xml: data.RequestIntrospection, look: lookRequest, children: requestChildren,
		ifaces: []*iface{requestIface}}},
	{LockspacePrefix, &node{xml: data.LockspaceIntrospection, look: lookSpace, children: spaceChildren,
		ifaces: []*iface{lockspaceIface}}},
}

// The standard interfaces of these objects. Unlike those of the root object
// they have to ask the service, so they are served in the call queue of the session.
var (
	objectIntrospectable = newIface(ifaceIntrospectable, nil,
		&method{name: "Introspect", out: "s", parse: func(*reader) (request, error) { return introspectObject{}, nil }})
	objectProperties = newIface(ifaceProperties, nil,
		&method{name: "Get", in: "ss", out: "v",
			parse: func(b *reader) (request, error) { return getObject{iface: b.text(), name: b.text()}, nil }},
		&method{name: "Set", in: "ssv", inline: setProperty},
		&method{name: "GetAll", in: "s", out: "a{sv}",
			parse: func(b *reader) (request, error) { return getAllObject{iface: b.text()}, nil }})
	listing = newIface(ifaceIntrospectable, nil,
		&method{name: "Introspect", out: "s",
			parse: func(*reader) (request, error) { return introspectChildren{}, nil }})
)

// ask asks the service and waits for the answer, or for the caller to go.
// The table answers such questions at once. It runs on a goroutine of the session, so
// waiting delays nobody else; the channel has room, so the answer never waits for the caller.
func ask[T any](c *call, question func(done func(T))) (v T, err error) {
	answer := make(chan T, 1)
	question(func(v T) { answer <- v })
	select {
	case v = <-answer:
	case <-c.from.Context().Done():
		err = c.from.Context().Err()
	}
	return v, err
}

// see finds what the object is about, for a caller who may look. The authoriser comes first:
// whether there is an object is not for everybody to know either.
func (c *call) see() (any, error) {
	if err := c.mayInspect(); err != nil {
		return nil, err
	}
	return c.node.look(c)
}

// noObject is the error for an object that is not there, or not any more.
func (c *call) noObject(what string) error {
	return busError{errUnknownObject, fmt.Sprintf("there is no %s %s (any more)", what, clip(c.id))}
}

// introspectObject is Introspect of an object that comes and goes.
type introspectObject struct{ own }

func (introspectObject) serve(c *call) {
	if _, err := c.see(); err != nil {
		c.Fail(err)
		return
	}
	c.reply(c.node.xml)
}

// introspectChildren is Introspect of the place above such objects, which lists them for
// people with busctl or D-Feet. Programs use the lists, which have pages.
type introspectChildren struct{ own }

// Cost implements frontend.Method.
func (introspectChildren) Cost() frontend.Cost { return frontend.Cost{Room: frontend.LongAnswer} }

func (introspectChildren) serve(c *call) {
	err := c.mayInspect()
	var names []string
	if err == nil {
		names, err = c.node.children(c)
	}
	if err != nil {
		c.Fail(err)
		return
	}
	c.reply(describe(names))
}

// getObject is Properties.Get of an object that comes and goes.
type getObject struct {
	own
	iface, name string
}

func (r getObject) serve(c *call) {
	p, err := findProperty(c.node, r.iface, r.name)
	var of any
	if err == nil {
		of, err = c.see()
	}
	if err != nil {
		c.Fail(err)
		return
	}
	c.reply(p.value(c.srv, of))
}

// getAllObject is Properties.GetAll of such an object.
type getAllObject struct {
	own
	iface string
}

func (r getAllObject) serve(c *call) {
	i := c.node.iface(r.iface)
	if i == nil {
		c.Fail(unknownInterface(c.node, r.iface))
		return
	}
	of, err := c.see()
	if err != nil {
		c.Fail(err)
		return
	}
	c.write(func(e *encoder) { e.values(i, c.srv, of, nil) })
}

// number reads the id of a lock or request: decimal, without leading zeros.
func number(id string) (uint64, bool) {
	n, err := strconv.ParseUint(id, 10, 64)
	return n, err == nil && strconv.FormatUint(n, 10) == id
}

// escape makes a name the last element of an object path, which may have only
// letters, digits and underscores (D-Bus specification, "Valid Object Paths"):
// every other byte, and a digit in front, is _ and two hexadecimal digits.
// sd_bus_path_encode(3) does the same. No two names become one.
func escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		ch := name[i]
		letter := ch >= 'a' && ch <= 'z' || ch >= 'A' && ch <= 'Z'
		if letter || i > 0 && ch >= '0' && ch <= '9' {
			b.WriteByte(ch)
		} else {
			fmt.Fprintf(&b, "_%02x", ch)
		}
	}
	return b.String()
}

// unescape reads what escape writes, and nothing else, so that no object has two paths.
func unescape(id string) (name string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(id); i++ {
		if id[i] != '_' {
			b.WriteByte(id[i])
			continue
		}
		if i+2 >= len(id) {
			return "", false
		}
		n, err := strconv.ParseUint(id[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(n))
		i += 2
	}
	return b.String(), b.Len() > 0 && escape(b.String()) == id
}

// managerIface is org.freedesktop.DBus.ObjectManager (D-Bus specification,
// "Standard Interfaces").
func managerIface() *iface {
	return newIface(ifaceManager, nil, &method{name: "GetManagedObjects", out: "a{oa{sa{sv}}}",
		parse: func(*reader) (request, error) { return getManaged{}, nil }})
}

// getManaged is GetManagedObjects.
type getManaged struct{ own }

// MaxManaged is how many bytes of objects GetManagedObjects lists: an answer
// can't be divided, and the bus passes nothing else on meanwhile.
const MaxManaged = 256 << 10

// Cost implements frontend.Method. The answer is long.
func (getManaged) Cost() frontend.Cost { return frontend.Cost{Weight: 16, Room: MaxManaged} }

func (getManaged) serve(c *call) {
	if err := c.mayInspect(); err != nil {
		c.Fail(err)
		return
	}
	s := c.srv
	// What is there is gathered at one moment, between the signals that come
	// before and those that come after.
	s.core.Snapshot(MaxListed, func(now frontend.Snapshot) {
		defer c.Contain()
		c.write(func(e *encoder) { e.managedAll(s, &now) })
	})
}

// managedAll writes the answer of GetManagedObjects.
func (e *encoder) managedAll(s *Server, now *frontend.Snapshot) {
	at, first := e.begin(8)
	for i := range now.Lockspaces {
		e.managed(s, spacePath(now.Lockspaces[i].Name), lockspaceIface, &now.Lockspaces[i])
	}
	// Neither kind may crowd out the other.
	for i := range max(len(now.Locks), len(now.Requests)) {
		if i < len(now.Locks) {
			e.managed(s, lockPath(now.Locks[i].Ref), lockIface, &now.Locks[i])
		}
		if i < len(now.Requests) {
			e.managed(s, requestPath(now.Requests[i].Number), requestIface,
				&pending{now.Requests[i], now.Position[i]})
		}
	}
	e.end(at, first)
}

// managed writes an object of GetManagedObjects, if it still fits.
func (e *encoder) managed(s *Server, path godbus.ObjectPath, i *iface, of any) {
	before := len(e.b)
	if before > MaxManaged {
		return
	}
	e.align(8)
	e.text(string(path))
	e.object(i, s, of)
	if len(e.b) > MaxManaged {
		e.b = e.b[:before]
	}
}
