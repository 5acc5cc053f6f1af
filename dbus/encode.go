package dbus

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	godbus "github.com/godbus/dbus/v5"
)

// The writer of long answers and of what every subscriber gets. godbus
// writes everything else; what is written here is so much that reflection is
// felt, and it has to be known how long it is while it is made (D-Bus
// specification, "Marshaling").

// encoder appends values to a message's body. Offsets count from the start of
// the body, which begins at a multiple of 8. The byte order is little endian,
// whatever the machine's.
type encoder struct{ b []byte }

var littleEndian = binary.LittleEndian

// align writes zeros up to a multiple of n, as each type of D-Bus wants before it.
func (e *encoder) align(n int) {
	for len(e.b)&(n-1) != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) byte(v byte) { e.b = append(e.b, v) }

func (e *encoder) uint32(v uint32) {
	e.align(4)
	e.b = littleEndian.AppendUint32(e.b, v)
}

func (e *encoder) uint64(v uint64) {
	e.align(8)
	e.b = littleEndian.AppendUint64(e.b, v)
}

// text writes a string or an object path. The bus would end the connection for
// one that is not UTF-8 or has a NUL in it, so whatever a name may contain is made
// printable here, once for all texts of this encoder.
func (e *encoder) text(s string) {
	s = printable(s)
	e.uint32(uint32(len(s)))
	e.b = append(e.b, s...)
	e.b = append(e.b, 0)
}

func (e *encoder) signature(s string) {
	e.b = append(e.b, byte(len(s)))
	e.b = append(e.b, s...)
	e.b = append(e.b, 0)
}

// begin begins an array of elements of that alignment, and returns what end
// needs to know. The length of an array counts neither itself nor the padding before the
// first element, which is there also if there is none (D-Bus specification, "Marshaling").
func (e *encoder) begin(alignment int) (at, first int) {
	e.uint32(0)
	at = len(e.b) - 4
	e.align(alignment)
	return at, len(e.b)
}

// end ends an array.
func (e *encoder) end(at, first int) { littleEndian.PutUint32(e.b[at:], uint32(len(e.b)-first)) }

// texts writes an as.
func (e *encoder) texts(texts ...string) {
	at, first := e.begin(4)
	for _, s := range texts {
		e.text(s)
	}
	e.end(at, first)
}

// detail is an element of an a{sv}, with the type of its value.
type detail struct {
	key, sig string
	value    any
}

// details writes an a{sv}.
func (e *encoder) details(all []detail) {
	at, first := e.begin(8)
	for _, d := range all {
		e.align(8)
		e.text(d.key)
		e.variant(d.sig, d.value)
	}
	e.end(at, first)
}

// variants are details for what godbus writes.
func variants(all []detail) map[string]godbus.Variant {
	m := make(map[string]godbus.Variant, len(all))
	for _, d := range all {
		if s, ok := d.value.(string); ok {
			d.value = printable(s)
		}
		m[d.key] = godbus.MakeVariantWithSignature(d.value, godbus.ParseSignatureMust(d.sig))
	}
	return m
}

// variant writes a value of one of the types that properties have.
func (e *encoder) variant(sig string, v any) {
	e.signature(sig)
	switch v := v.(type) {
	case string:
		e.text(v)
	case godbus.ObjectPath:
		e.text(string(v))
	case bool:
		e.bool(v)
	case uint32:
		e.uint32(v)
	case int32:
		e.uint32(uint32(v))
	case uint64:
		e.uint64(v)
	case []uint32:
		at, first := e.begin(4)
		for _, n := range v {
			e.uint32(n)
		}
		e.end(at, first)
	case map[uint32]string:
		at, first := e.begin(8)
		for _, n := range slices.Sorted(maps.Keys(v)) {
			e.align(8)
			e.uint32(n)
			e.text(v[n])
		}
		e.end(at, first)
	case latencyRow:
		e.latency(v)
	default:
		// A property of a new type, which every test of the tree would meet.
		panic(fmt.Sprintf("no property has the type %T", v))
	}
}

// bool writes a BOOLEAN, which D-Bus marshals as a UINT32.
func (e *encoder) bool(v bool) {
	n := uint32(0)
	if v {
		n = 1
	}
	e.uint32(n)
}

// latency writes the (tta(tt)) of GrantLatency.
func (e *encoder) latency(v latencyRow) {
	e.align(8)
	e.uint64(v.Count)
	e.uint64(v.Sum)
	at, first := e.begin(8)
	for _, b := range v.Buckets {
		e.align(8)
		e.uint64(b.Bound)
		e.uint64(b.Count)
	}
	e.end(at, first)
}

// values writes the properties of an interface, or those of a kind, as an
// a{sv}.
func (e *encoder) values(i *iface, s *Server, of any, which func(*property) bool) {
	at, first := e.begin(8)
	for k := range i.props {
		p := &i.props[k]
		if which != nil && !which(p) {
			continue
		}
		v := p.get(s, of)
		if v == nil {
			continue
		}
		e.align(8)
		e.text(p.name)
		e.variant(p.sig.String(), v)
	}
	e.end(at, first)
}

// object writes the interface of an object with its properties, as an
// a{sa{sv}}.
func (e *encoder) object(i *iface, s *Server, of any) {
	at, first := e.begin(8)
	e.align(8)
	e.text(i.name)
	e.values(i, s, of, nil)
	e.end(at, first)
}

// encodeMessage makes a whole message around a body: its header with the fields that
// are not "", and the body.
func encodeMessage(into []byte, kind godbus.Type, serial, replySerial uint32, sig string, fields []headerField,
	body []byte) []byte {
	e := encoder{into[:0]}
	e.b = append(e.b, 'l', byte(kind), byte(godbus.FlagNoReplyExpected), 1)
	e.uint32(uint32(len(body)))
	e.uint32(serial)
	at, first := e.begin(8)
	if replySerial != 0 {
		e.align(8)
		e.byte(byte(godbus.FieldReplySerial))
		e.signature("u")
		e.uint32(replySerial)
	}
	for _, f := range fields {
		if f.value == "" {
			continue
		}
		e.align(8)
		e.byte(byte(f.code))
		e.signature(f.sig)
		e.text(f.value)
	}
	if sig != "" {
		e.align(8)
		e.byte(byte(godbus.FieldSignature))
		e.signature("g")
		e.signature(sig)
	}
	e.end(at, first)
	e.align(8)
	e.b = append(e.b, body...)
	return e.b
}

// headerField is a field of a header that is a text.
type headerField struct {
	code  godbus.HeaderField
	sig   string
	value string
}
