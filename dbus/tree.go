package dbus

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/data"
)

// Standard interfaces (D-Bus specification, "Standard Interfaces").
const (
	ifaceIntrospectable = "org.freedesktop.DBus.Introspectable"
	ifaceManager        = "org.freedesktop.DBus.ObjectManager"
	ifacePeer           = "org.freedesktop.DBus.Peer"
	ifaceProperties     = "org.freedesktop.DBus.Properties"
)

// introspectStatic is Introspect of an object that is always there.
type introspectStatic struct{ own }

func (introspectStatic) serve(c *call) { c.write(func(e *encoder) { e.text(c.node.xml) }) }

// method is one member of an interface. It is either answered in the reader
// (inline) or parsed there and served in the call queue of its session.
type method struct {
	name, in, out string           // in and out are signatures, as in the interface's description
	outSig        godbus.Signature // out, parsed

	// inline answers at once; it must not block.
	inline func(s *Server, n *node, c *call, body *reader)
	// parse reads and checks the arguments, whose types are those of in. They
	// are good until it returns.
	parse func(body *reader) (request, error)
}

// iface is one interface of an object.
type iface struct {
	name string
	// By name.
	methods map[string]*method
	props   []property
}

// newIface makes an interface, and prepares the signatures of what its methods answer.
func newIface(name string, props []property, methods ...*method) *iface {
	i := &iface{name: name, props: props, methods: make(map[string]*method, len(methods))}
	for _, m := range methods {
		m.outSig = godbus.ParseSignatureMust(m.out)
		i.methods[m.name] = m
	}
	return i
}

func (i *iface) property(name string) *property {
	for k := range i.props {
		if i.props[k].name == name {
			return &i.props[k]
		}
	}
	return nil
}

// node is an object, or a place on the way to one.
type node struct {
	xml    string // what Introspect answers; "": see children
	ifaces []*iface

	// children lists the names below it, where these come and go. It runs on a goroutine
	// of the session.
	children func(c *call) ([]string, error)
	// look finds what an object of this kind is about: the object whose id the call has.
	// It runs on a goroutine of the session. The error is a busError if there is no such
	// object.
	look func(c *call) (any, error)
}

func (n *node) iface(name string) *iface {
	for _, i := range n.ifaces {
		if i.name == name {
			return i
		}
	}
	return nil
}

// tree is the object tree: fixed, so that it needs no lock. Objects that come
// and go (locks, requests, lockspaces) are not entries of it. There is one node
// for all of a kind, and what the object is about is looked up when it is
// called: a lock costs the bus nothing.
type tree struct {
	// By path: the objects that are always there, and the places on the way to them.
	nodes map[string]*node
	// Objects that come and go; the path begins with the prefix of their kind.
	kinds []kind
	// The interface that every path has, whether or not an object is there.
	peer *iface
}

// kind is the objects whose path is a prefix and an id.
type kind struct {
	prefix string
	node   *node
}

// newTree makes all objects with their interfaces. Every one of them has Introspectable and
// Peer.
func newTree() *tree {
	peer := newIface(ifacePeer, nil,
		&method{name: "Ping", inline: func(_ *Server, _ *node, c *call, _ *reader) { c.reply() }},
		&method{name: "GetMachineId", out: "s", inline: getMachineID})
	introspectable := newIface(ifaceIntrospectable, nil,
		&method{name: "Introspect", out: "s", parse: func(*reader) (request, error) { return introspectStatic{}, nil }})
	root := &node{xml: data.Introspection, ifaces: []*iface{
		newIface(Name, rootProperties, rootMethods()...), introspectable, managerIface(), peer, propertiesIface()}}
	t := &tree{peer: peer, nodes: map[string]*node{
		string(Path): root, string(logControlPath): logControlNode(introspectable, peer)}}
	for p, children := range between(string(Path), string(logControlPath)) {
		t.nodes[p] = &node{xml: describe(children), ifaces: []*iface{introspectable, peer}}
	}
	for _, k := range kinds {
		n := *k.node
		n.ifaces = []*iface{n.ifaces[0], objectIntrospectable, peer, objectProperties}
		t.kinds = append(t.kinds, kind{k.prefix, &n})
		t.nodes[strings.TrimSuffix(k.prefix, "/")] = &node{children: n.children, ifaces: []*iface{listing, peer}}
	}
	return t
}

// between are the places on the way to some objects, with what is below each. Tools walk down
// from "/", so each place has to have an Introspect that names its children.
func between(paths ...string) map[string][]string {
	places := map[string][]string{}
	for _, p := range paths {
		for p != "/" {
			i := strings.LastIndexByte(p, '/')
			child := p[i+1:]
			p = p[:max(i, 1)]
			if !slices.Contains(places[p], child) {
				places[p] = append(places[p], child)
			}
		}
	}
	return places
}

// describe writes the introspection of a place on the way to objects. The doctype is that of
// the interfaces' own descriptions.
func describe(names []string) string {
	var b strings.Builder
	doctype, _, _ := strings.Cut(data.Introspection, ">")
	b.WriteString(doctype + ">\n<node>\n" +
		"  <interface name=\"" + ifaceIntrospectable + "\">\n    <method name=\"Introspect\">\n" +
		"      <arg name=\"xml_data\" type=\"s\" direction=\"out\"/>\n    </method>\n  </interface>\n")
	for _, c := range names {
		fmt.Fprintf(&b, "  <node name=%q/>\n", c)
	}
	b.WriteString("</node>\n")
	return b.String()
}

// find finds the method that a call is for and, where the object is one of
// many, its id, and checks the types of the arguments.
func (t *tree) find(h *header) (m *method, n *node, id string, err error) {
	if n = t.nodes[string(h.path)]; n == nil {
		for i := range t.kinds {
			k := &t.kinds[i]
			if rest, ok := bytes.CutPrefix(h.path, []byte(k.prefix)); ok && bytes.IndexByte(rest, '/') < 0 {
				n, id = k.node, string(rest)
			}
		}
	}
	if m, err = t.lookup(n, h); err != nil {
		return nil, nil, "", err
	}
	if string(h.sig) != m.in {
		return nil, nil, "", busError{errInvalidArgs,
			fmt.Sprintf("%s takes (%s), the call has (%s)", m.name, m.in, h.sig)}
	}
	return m, n, id, nil
}

// lookup finds the method that a call means; n is the node of its path, or nil. Whether an
// object that comes and goes exists is found out later, on a goroutine of the session.
func (t *tree) lookup(n *node, h *header) (*method, error) {
	if n == nil && string(h.iface) == ifacePeer {
		// The Peer interface is that of the connection, whatever the path.
		n = &node{ifaces: []*iface{t.peer}}
	}
	if n == nil {
		return nil, busError{errUnknownObject,
			fmt.Sprintf("there is no object %s; the lock service is %s", h.path, Path)}
	}
	known := len(h.iface) == 0 // it may be left out
	for _, i := range n.ifaces {
		if len(h.iface) > 0 && i.name != string(h.iface) {
			continue
		}
		known = true
		if m := i.methods[string(h.member)]; m != nil {
			return m, nil
		}
	}
	if !known {
		return nil, busError{errUnknownInterface,
			fmt.Sprintf("%s has no interface %s; Introspect lists them", h.path, h.iface)}
	}
	return nil, busError{errUnknownMethod, fmt.Sprintf("%s has no method %s; Introspect lists them", h.path, h.member)}
}

// machineID is read once, because GetMachineId is answered in the reader, which must not wait
// for a disk at each call. It does not change while a host runs (machine-id(5)).
var machineID = sync.OnceValues(func() (string, error) {
	raw, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		raw, err = os.ReadFile("/var/lib/dbus/machine-id")
	}
	return strings.TrimSpace(string(raw)), err
})

// getMachineID answers org.freedesktop.DBus.Peer.GetMachineId.
func getMachineID(_ *Server, _ *node, c *call, _ *reader) {
	id, err := machineID()
	if err != nil {
		c.Fail(busError{errFailed, "this host has no machine id: " + err.Error()})
		return
	}
	c.reply(id)
}
