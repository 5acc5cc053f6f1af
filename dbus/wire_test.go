package dbus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// wireValue draws any type of the D-Bus specification and writes a value of it.
type wireValue struct {
	t    *rapid.T
	body []byte
}

func (w *wireValue) align(n int) {
	for len(w.body)%n != 0 {
		w.body = append(w.body, 0)
	}
}

func (w *wireValue) text(s string) {
	w.align(4)
	w.body = binary.LittleEndian.AppendUint32(w.body, uint32(len(s)))
	w.body = append(append(w.body, s...), 0)
}

// single draws a complete type.
func (w *wireValue) single(depth int) string {
	kinds := "ybnqiuxtdsogvh"
	if depth < 6 {
		kinds += "aaaa((({{{{vvv"
	}
	switch k := rapid.SampledFrom(strings.Split(kinds, "")).Draw(w.t, "type"); k {
	case "a":
		return "a" + w.single(depth+1)
	case "{":
		return "a{" + rapid.SampledFrom(strings.Split("ybnqiuxtdsogh", "")).Draw(w.t, "key") + w.single(depth+1) + "}"
	case "(":
		sig := "("
		for range rapid.IntRange(1, 3).Draw(w.t, "fields") {
			sig += w.single(depth + 1)
		}
		return sig + ")"
	default:
		return k
	}
}

// value writes a value of the type that sig begins with and returns the rest.
func (w *wireValue) value(sig string, depth int) string {
	fixed := map[byte]int{'y': 1, 'n': 2, 'q': 2, 'i': 4, 'u': 4, 'h': 4, 'b': 4, 'x': 8, 't': 8, 'd': 8}
	switch k := sig[0]; k {
	case 's':
		w.text(rapid.SampledFrom([]string{"", "é", "text"}).Draw(w.t, "s"))
	case 'o':
		w.text(rapid.SampledFrom([]string{"/", "/a/b"}).Draw(w.t, "o"))
	case 'g':
		s := rapid.SampledFrom([]string{"", "s", "a{sv}u"}).Draw(w.t, "g")
		w.body = append(append(append(w.body, byte(len(s))), s...), 0)
	case 'v':
		s := w.single(depth + 1)
		w.body = append(append(append(w.body, byte(len(s))), s...), 0)
		w.value(s, depth+1)
	case '(':
		w.align(8)
		for sig = sig[1:]; sig[0] != ')'; {
			sig = w.value(sig, depth+1)
		}
	case 'a':
		return w.array(sig, depth)
	default:
		w.align(fixed[k])
		w.body = append(w.body, make([]byte, fixed[k])...)
		if k != 'b' && k != 'h' {
			w.body[len(w.body)-1] = rapid.Byte().Draw(w.t, "byte")
		}
	}
	return sig[1:]
}

func (w *wireValue) array(sig string, depth int) string {
	w.align(4)
	at := len(w.body)
	w.body = append(w.body, 0, 0, 0, 0)
	if strings.IndexByte("xtd({", sig[1]) >= 0 {
		w.align(8)
	}
	start, rest := len(w.body), ""
	elements := rapid.IntRange(0, 2).Draw(w.t, "elements")
	for range elements {
		if sig[1] == '{' {
			w.align(8)
			rest = w.value(w.value(sig[2:], depth+1), depth+1)[1:]
		} else {
			rest = w.value(sig[1:], depth+1)
		}
	}
	binary.LittleEndian.PutUint32(w.body[at:], uint32(len(w.body)-start))
	if elements == 0 {
		scratch := &wireValue{t: w.t, body: make([]byte, len(w.body))}
		if sig[1] == '{' {
			rest = scratch.value(scratch.value(sig[2:], 99), 99)[1:]
		} else {
			rest = scratch.value(sig[1:], 99)
		}
	}
	return rest
}

func frameOf(t require.TestingT, sig string, body []byte) []byte {
	msg := &godbus.Message{Type: godbus.TypeMethodCall, Headers: map[godbus.HeaderField]godbus.Variant{
		godbus.FieldPath: godbus.MakeVariant(Path), godbus.FieldMember: godbus.MakeVariant("Release")}}
	if sig != "" {
		s, err := godbus.ParseSignature(sig)
		require.NoError(t, err)
		msg.Headers[godbus.FieldSignature] = godbus.MakeVariant(s)
	}
	var b bytes.Buffer
	require.NoError(t, msg.EncodeTo(&b, binary.LittleEndian))
	frame := append(b.Bytes(), body...)
	binary.LittleEndian.PutUint32(frame[4:], uint32(len(body)))
	return frame
}

// Whatever valid message the wire lets through, godbus reads.
func TestReadableIsSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &wireValue{t: t}
		sig := w.single(0)
		w.value(sig, 0)
		frame := frameOf(t, sig, w.body)
		if readable(frame) {
			require.True(t, tryDecode(frame), "%s %x", sig, w.body)
		}
	})
}

// The nesting that ends godbus is found, and ordinary messages pass.
func TestReadable(t *testing.T) {
	for n := 1; n < 40; n++ {
		frame := frameOf(t, "av", deepArrays(n))
		require.Equal(t, tryDecode(frame), readable(frame), n)
	}
	require.False(t, readable(frameOf(t, "av", deepArrays(32))))
	dict := []byte{8, 0, 0, 0, 0, 0, 0, 0, 1, 's', 0, 0, 1, 0, 0, 0}
	require.False(t, readable(frameOf(t, "a{gu}", dict)))
	long := strings.Repeat("a(v", 1000)
	body := binary.LittleEndian.AppendUint32(nil, uint32(len(long)))
	require.True(t, readable(frameOf(t, "s", append(append(body, long...), 0))))
}

// Addresses are those of the specification; only sockets of this host count.
func TestSocketName(t *testing.T) {
	for address, want := range map[string]string{
		"unix:path=/run/x":               "/run/x",
		"unix:guid=0,path=/run/a%20b":    "/run/a b",
		"unix:abstract=/tmp/y,guid=0":    "@/tmp/y",
		"unix:runtime=yes":               "",
		"tcp:host=localhost,port=1":      "",
		"unix:path=%zz":                  "",
		"unixexec:path=/bin/sh":          "",
		"":                               "",
		"nonce-tcp:host=h,noncefile=/xx": "",
	} {
		got, err := socketName(address)
		require.Equal(t, want, got, address)
		require.Equal(t, want == "", err != nil, address)
	}
	_, err := dial(t.Context(), ";")
	require.ErrorContains(t, err, "names no socket")
	_, err = dial(t.Context(), fmt.Sprintf("tcp:x;unix:path=%s/none", t.TempDir()))
	require.ErrorContains(t, err, "none")
}
