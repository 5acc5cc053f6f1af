package dbus

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/data"
)

// Standard interfaces (D-Bus specification, "Standard Interfaces").
const (
	ifaceIntrospectable = "org.freedesktop.DBus.Introspectable"
	ifacePeer           = "org.freedesktop.DBus.Peer"
	ifaceProperties     = "org.freedesktop.DBus.Properties"
)

// method is one member of an interface. It is either answered in the reader
// (inline) or parsed there and served in the line of its sender.
type method struct {
	name, in, out string
	outSig        godbus.Signature

	// inline answers at once; it must not block.
	inline func(s *Server, n *node, c *call, body *reader)
	// parse reads and checks the arguments, whose types are those of in. They
	// are good until it returns.
	parse func(body *reader) (request, error)
}

// iface is one interface of an object.
type iface struct {
	name    string
	methods map[string]*method
	props   []property
}

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
	xml    string // what Introspect answers
	ifaces []*iface
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
// and go (locks, requests, lockspaces) are not entries of it: find is where a
// path below Path is to be looked up in the service.
type tree struct {
	nodes map[string]*node
	peer  *iface
}

func newTree() *tree {
	peer := newIface(ifacePeer, nil,
		&method{name: "Ping", inline: func(_ *Server, _ *node, c *call, _ *reader) { c.reply() }},
		&method{name: "GetMachineId", out: "s", inline: getMachineID})
	introspectable := newIface(ifaceIntrospectable, nil,
		&method{name: "Introspect", out: "s", inline: func(_ *Server, n *node, c *call, _ *reader) { c.reply(n.xml) }})
	root := &node{xml: data.Introspection, ifaces: []*iface{
		newIface(Name, rootProperties, rootMethods()...), introspectable, peer, propertiesIface()}}
	t := &tree{peer: peer, nodes: map[string]*node{string(Path): root}}
	for p := string(Path); p != "/"; {
		p = p[:max(strings.LastIndexByte(p, '/'), 1)]
		t.nodes[p] = &node{ifaces: []*iface{introspectable, peer}}
	}
	for p, n := range t.nodes {
		if n.xml == "" {
			n.xml = t.describe(p)
		}
	}
	return t
}

// describe writes the introspection of a place on the way to an object.
func (t *tree) describe(p string) string {
	prefix := strings.TrimSuffix(p, "/") + "/"
	children := make(map[string]bool)
	for q := range t.nodes {
		if rest, ok := strings.CutPrefix(q, prefix); ok && rest != "" {
			child, _, _ := strings.Cut(rest, "/")
			children[child] = true
		}
	}
	names := make([]string, 0, len(children))
	for c := range children {
		names = append(names, c)
	}
	sort.Strings(names)
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

// find finds the method that a call is for, and checks the types of its
// arguments.
func (t *tree) find(h *header) (*method, *node, error) {
	n := t.nodes[string(h.path)]
	m, err := t.lookup(n, h)
	if err != nil {
		return nil, nil, err
	}
	if string(h.sig) != m.in {
		return nil, nil, busError{errInvalidArgs, fmt.Sprintf("%s takes (%s), the call has (%s)", m.name, m.in, h.sig)}
	}
	return m, n, nil
}

func (t *tree) lookup(n *node, h *header) (*method, error) {
	if n == nil && string(h.iface) == ifacePeer {
		// The Peer interface is that of the connection, whatever the path.
		n = &node{ifaces: []*iface{t.peer}}
	}
	if n == nil {
		return nil, busError{errUnknownObject, fmt.Sprintf("there is no object %s; the lock service is %s", h.path, Path)}
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
		return nil, busError{errUnknownInterface, fmt.Sprintf("%s has no interface %s; Introspect lists them", h.path, h.iface)}
	}
	return nil, busError{errUnknownMethod, fmt.Sprintf("%s has no method %s; Introspect lists them", h.path, h.member)}
}

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
		c.fail(busError{errFailed, "this host has no machine id: " + err.Error()})
		return
	}
	c.reply(id)
}
