package dbus

import (
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"time"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// emits is the value of the annotation
// org.freedesktop.DBus.Property.EmitsChangedSignal.
type emits string

const (
	emitsConst emits = "const" // never changes while the service runs
	emitsTrue  emits = "true"  // PropertiesChanged carries the new value
	emitsFalse emits = "false" // changes unsaid
)

// property is one read-only property.
type property struct {
	// As in the interface's description, with which a test compares it.
	name string
	sig  godbus.Signature
	// Whether PropertiesChanged tells of it.
	emits emits
	get   func(s *Server, of any) any // of: what the object is about; nil: it is left out, not being known
}

// prop makes a property of objects that are about a T.
func prop[T any](name, sig string, e emits, get func(s *Server, of *T) any) property {
	return property{name, godbus.ParseSignatureMust(sig), e, func(s *Server, of any) any { return get(s, of.(*T)) }}
}

// text makes a property that is a text of any bytes.
func text[T any](name string, e emits, get func(of *T) string) property {
	return prop(name, "s", e, func(_ *Server, of *T) any { return printable(get(of)) })
}

// value reads the property as a variant.
func (p *property) value(s *Server, of any) godbus.Variant {
	return godbus.MakeVariantWithSignature(p.get(s, of), p.sig)
}

// rootProperties are those of the root object.
var rootProperties = []property{
	prop("Version", "s", emitsConst, func(s *Server, _ *api.Status) any { return printable(s.cfg.Version) }),
	prop("Commit", "s", emitsConst, func(s *Server, _ *api.Status) any { return printable(s.cfg.Commit) }),
	prop("BuildDate", "s", emitsConst, func(s *Server, _ *api.Status) any { return printable(s.cfg.BuildDate) }),
	prop("Engine", "s", emitsConst, func(_ *Server, st *api.Status) any { return printable(st.Engine) }),
	prop("StateFile", "s", emitsConst, func(s *Server, _ *api.Status) any { return printable(s.cfg.StateFile) }),
	prop("NodeID", "u", emitsTrue, func(_ *Server, st *api.Status) any { return st.Node.ID }),
	prop("NodeName", "s", emitsTrue, func(_ *Server, st *api.Status) any { return printable(st.Node.Name) }),
	prop("Nodes", "a{us}", emitsTrue, func(_ *Server, st *api.Status) any { return nodeNames(&st.Names) }),
	prop("ClusterName", "s", emitsTrue, func(_ *Server, st *api.Status) any { return printable(st.Node.Cluster) }),
	prop("Quorate", "b", emitsTrue, func(_ *Server, st *api.Status) any { return st.Quorum == api.Quorate }),
	prop("QuorumState", "s", emitsTrue, func(_ *Server, st *api.Status) any { return st.Quorum.String() }),
	prop("LockCount", "u", emitsTrue, func(_ *Server, st *api.Status) any { return uint32(st.Locks) }),
	prop("WaitingCount", "u", emitsTrue, func(_ *Server, st *api.Status) any { return uint32(st.Waiting) }),
	prop("LockspaceCount", "u", emitsTrue, func(_ *Server, st *api.Status) any { return uint32(st.Lockspaces) }),
	prop("Degraded", "s", emitsTrue, func(_ *Server, st *api.Status) any { return printable(st.Degraded) }),
	prop("LocksGranted", "t", emitsFalse, func(_ *Server, st *api.Status) any { return st.Counters.Granted }),
	prop("LocksReleased", "t", emitsFalse, func(_ *Server, st *api.Status) any { return st.Counters.Released }),
	prop("LocksConverted", "t", emitsFalse, func(_ *Server, st *api.Status) any { return st.Counters.Converted }),
	prop("LocksLost", "t", emitsFalse, func(_ *Server, st *api.Status) any { return st.Counters.Lost }),
	prop("RequestsRefused", "t", emitsFalse, func(_ *Server, st *api.Status) any { return st.Counters.Refused }),
	prop("RequestsCanceled", "t", emitsFalse, func(_ *Server, st *api.Status) any { return st.Counters.Canceled }),
	prop("GrantLatency", "(tta(tt))", emitsFalse,
		func(_ *Server, st *api.Status) any { return latencyOf(&st.Counters.Latency) }),
}

// nodeNames are the names of the nodes, fit for the bus.
func nodeNames(n *api.NodeNames) map[uint32]string {
	names := n.Map()
	for id, name := range names {
		names[id] = printable(name)
	}
	return names
}

// latencyRow is how long grants took, on the bus.
type latencyRow struct {
	Count   uint64
	Sum     uint64 // microseconds
	Buckets []bucketRow
}

// bucketRow is how many took no longer than so many microseconds. What took longer
// than the last bound is in the count of all alone: a bound of 2^64 - 1 for "none"
// loses its value in JSON, and with it in most tools.
type bucketRow struct{ Bound, Count uint64 }

// latencyOf makes the value of GrantLatency.
func latencyOf(l *api.Latency) latencyRow {
	row := latencyRow{l.Count(), uint64(l.Sum.Microseconds()), make([]bucketRow, len(api.LatencyBounds))}
	counts := l.Cumulative()
	for i, bound := range api.LatencyBounds {
		row.Buckets[i] = bucketRow{uint64(bound.Microseconds()), counts[i]}
	}
	return row
}

// Get and GetAll of what needs no answer from the service. The calls wait for
// their turn like all others.
var (
	methodGet = &method{name: "Get", in: "ss", out: "v",
		parse: func(b *reader) (request, error) { return getRoot{iface: b.text(), name: b.text()}, nil }}
	methodGetAll = &method{name: "GetAll", in: "s", out: "a{sv}",
		parse: func(b *reader) (request, error) { return getAllRoot{iface: b.text()}, nil }}
)

func propertiesIface() *iface {
	return newIface(ifaceProperties, nil, methodGet, &method{name: "Set", in: "ssv", inline: setProperty}, methodGetAll)
}

// findProperty finds a property by the arguments of Get and Set.
func findProperty(n *node, iface, name string) (*property, error) {
	i := n.iface(iface)
	if i == nil {
		return nil, unknownInterface(n, iface)
	}
	p := i.property(name)
	if p == nil {
		return nil, busError{errUnknownProperty, fmt.Sprintf("%s has no property %s; GetAll lists them", iface, name)}
	}
	return p, nil
}

func unknownInterface(n *node, iface string) error {
	return busError{errUnknownInterface, fmt.Sprintf("the object has no interface %q; its properties are those of %s",
		clip(iface), n.ifaces[0].name)}
}

type getRoot struct {
	own
	iface, name string
}

func (r getRoot) serve(c *call) {
	p, err := findProperty(c.node, r.iface, r.name)
	if err != nil {
		c.Fail(err)
		return
	}
	st := c.srv.service().Status()
	c.reply(p.value(c.srv, &st))
}

// setProperty refuses: what can be changed is changed by methods, or in the configuration. The
// errors say which of the three it is, no interface, no property, or no right to set it.
func setProperty(_ *Server, n *node, c *call, body *reader) {
	p, err := findProperty(n, body.text(), body.text())
	if err == nil {
		err = busError{errReadOnly, p.name + " can't be set"}
	}
	c.Fail(err)
}

type getAllRoot struct {
	own
	iface string
}

func (r getAllRoot) serve(c *call) {
	i := c.node.iface(r.iface)
	if i == nil {
		c.Fail(unknownInterface(c.node, r.iface))
		return
	}
	st := c.srv.service().Status()
	c.write(func(e *encoder) { e.values(i, c.srv, &st, nil) })
}

// When changes are reported: soon after something was said to have changed, so that
// several go in one signal; and what changes with every call, which nobody
// says, within the longer time.
const (
	tellSoon  = 50 * time.Millisecond
	tellLater = time.Second
)

// propertyWatch gathers changes of properties into few signals.
type propertyWatch struct {
	srv *Server

	mu     sync.Mutex
	told   api.Status  // what the last signal said
	unread uint64      // messages that the log knows of
	timer  *time.Timer // runs tell; nil before begin and after end
	// The timer was set to tellSoon, because something has changed.
	soon bool
}

func newPropertyWatch(s *Server) *propertyWatch { return &propertyWatch{srv: s} }

// begin starts to compare; st is what those who read the properties from now on get.
func (w *propertyWatch) begin(st api.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = st
	w.timer = time.AfterFunc(tellLater, w.tell)
}

// note says that something has changed.
func (w *propertyWatch) note() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil && !w.soon {
		w.soon = true
		w.timer.Reset(tellSoon)
	}
}

// tell sends what has changed since the last time.
func (w *propertyWatch) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return
	}
	// With w.mu held, or what was read before another tell would be told after it.
	now := w.srv.service().Status()
	w.soon = false
	w.timer.Reset(tellLater)
	var changed map[string]godbus.Variant
	for k := range rootProperties {
		p := &rootProperties[k]
		if p.emits != emitsTrue {
			continue
		}
		// Compared as the bus has them: maps and texts that were made printable.
		v := p.get(w.srv, &now)
		if reflect.DeepEqual(v, p.get(w.srv, &w.told)) {
			continue
		}
		if changed == nil {
			changed = make(map[string]godbus.Variant)
		}
		changed[p.name] = godbus.MakeVariantWithSignature(v, p.sig)
	}
	w.told = now
	// Here, because anybody may send such messages: the log gets one line a second at most.
	if n := w.srv.bus.wire.unread.Load(); n != w.unread {
		w.srv.log.Warn("callers sent what can't be read", slog.Uint64("messages", n-w.unread))
		w.unread = n
	}
	if changed != nil {
		w.srv.post(message{user: noUser, path: Path, iface: ifaceProperties, member: "PropertiesChanged",
			sig: sigPropertiesChanged, body: []any{Name, changed, []string{}}})
	}
}

// end stops it. A tell that runs at the moment may still send its signal.
func (w *propertyWatch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
}
