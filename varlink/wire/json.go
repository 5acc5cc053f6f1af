package wire

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// This reader exists beside encoding/json because of what that accepts (package comment),
// and because it reads a call in one pass without reflection on the way to its
// parameters. It is fuzzed against encoding/json: what it accepts, that accepts as well.

// maxDepth is how deep objects and arrays may be nested. The cursor calls itself for each
// level, and no call of the interface needs more than five.
const maxDepth = 32

// SyntaxError says where a text is not the JSON that this package takes:
// RFC 8259 in valid UTF-8, without U+0000 in strings.
type SyntaxError struct {
	Offset int // in bytes, from the beginning of the text
	Text   string
}

func (e *SyntaxError) Error() string { return fmt.Sprintf("byte %d: %s", e.Offset, e.Text) }

// cursor reads a JSON text from the left to the right. Its methods panic with a
// *SyntaxError, which guard turns into an error.
type cursor struct {
	b     []byte
	i     int // how far it was read
	depth int // of the object or array that is being read
}

// guard recovers a *SyntaxError or a *FieldError into err. Panics take the place of an
// error result of each method, of which there are many and small ones; none leaves the
// package.
func guard(err *error) {
	switch v := recover().(type) {
	case nil:
	case *SyntaxError:
		*err = v
	case *FieldError:
		*err = v
	default:
		panic(v)
	}
}

func (c *cursor) fail(text string) { panic(&SyntaxError{c.i, text}) }

func (c *cursor) space() {
	for c.i < len(c.b) {
		switch c.b[c.i] {
		case ' ', '\t', '\n', '\r':
			c.i++
		default:
			return
		}
	}
}

// peek returns the first byte of the next token; 0 at the end.
func (c *cursor) peek() byte {
	c.space()
	if c.i == len(c.b) {
		return 0
	}
	return c.b[c.i]
}

// take consumes a byte that has to be there.
func (c *cursor) take(b byte) {
	if c.peek() != b {
		c.fail(fmt.Sprintf("%q is missing", b))
	}
	c.i++
}

// end checks that nothing follows.
func (c *cursor) end() {
	if c.space(); c.i < len(c.b) {
		c.fail("something follows the value")
	}
}

// word consumes true, false or null.
func (c *cursor) word(w string) {
	if len(c.b)-c.i < len(w) || string(c.b[c.i:c.i+len(w)]) != w {
		c.fail("not a value")
	}
	c.i += len(w)
}

// null consumes a null, if it is one.
func (c *cursor) null() bool {
	if c.peek() != 'n' {
		return false
	}
	c.word("null")
	return true
}

// object reads an object; member reads the value of each key.
func (c *cursor) object(member func(key string)) {
	c.list('{', '}', func() {
		if c.peek() != '"' {
			c.fail("a key is missing")
		}
		key := c.text()
		c.take(':')
		member(key)
	})
}

// array reads an array; element reads each element.
func (c *cursor) array(element func()) { c.list('[', ']', element) }

func (c *cursor) list(open, shut byte, item func()) {
	c.take(open)
	if c.depth++; c.depth > maxDepth {
		c.fail(fmt.Sprintf("nested deeper than %d", maxDepth))
	}
	if c.peek() != shut {
		for item(); c.peek() == ','; item() {
			c.i++
		}
	}
	c.take(shut)
	c.depth--
}

// text reads a string. Most have no escape sequence and are copied once.
func (c *cursor) text() string {
	c.take('"')
	start := c.i
	for c.i < len(c.b) {
		switch b := c.b[c.i]; {
		case b == '"':
			s := string(c.b[start:c.i])
			c.i++
			return s
		case b == '\\':
			return c.escaped(start)
		case b < ' ':
			c.fail("a control character in a string")
		case b < utf8.RuneSelf:
			c.i++
		default:
			c.rune()
		}
	}
	c.fail("a string does not end")
	return ""
}

// rune checks one character of more than one byte.
func (c *cursor) rune() {
	r, n := utf8.DecodeRune(c.b[c.i:])
	if r == utf8.RuneError && n <= 1 {
		c.fail("not UTF-8")
	}
	c.i += n
}

// escaped reads on in a string that began at start, from its first backslash.
func (c *cursor) escaped(start int) string {
	out := append(make([]byte, 0, c.i-start+16), c.b[start:c.i]...)
	for c.i < len(c.b) {
		switch b := c.b[c.i]; {
		case b == '"':
			c.i++
			return string(out)
		case b == '\\':
			out = utf8.AppendRune(out, c.escape())
		case b < ' ':
			c.fail("a control character in a string")
		default:
			from := c.i
			c.rune()
			out = append(out, c.b[from:c.i]...)
		}
	}
	c.fail("a string does not end")
	return ""
}

// escape reads one escape sequence, both halves of a surrogate pair.
func (c *cursor) escape() rune {
	c.i++
	if c.i == len(c.b) {
		c.fail("a string does not end")
	}
	b := c.b[c.i]
	c.i++
	switch b {
	case '"', '\\', '/':
		return rune(b)
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'u':
		return c.unicode()
	}
	c.i--
	c.fail("an unknown escape sequence")
	return 0
}

// unicode reads what follows \u. U+0000 is refused, though JSON has it: names go to the
// kernel and to libraries in C.
func (c *cursor) unicode() rune {
	r := c.hex()
	switch {
	case r == 0:
		c.fail("U+0000 in a string")
	case utf16.IsSurrogate(r):
		if c.i+1 < len(c.b) && c.b[c.i] == '\\' && c.b[c.i+1] == 'u' {
			c.i += 2
			if both := utf16.DecodeRune(r, c.hex()); both != utf8.RuneError {
				return both
			}
		}
		c.fail("half of a surrogate pair")
	}
	return r
}

func (c *cursor) hex() (r rune) {
	if len(c.b)-c.i < 4 {
		c.fail("an escape sequence does not end")
	}
	for range 4 {
		b := c.b[c.i]
		switch {
		case b >= '0' && b <= '9':
			b -= '0'
		case b >= 'a' && b <= 'f':
			b -= 'a' - 10
		case b >= 'A' && b <= 'F':
			b -= 'A' - 10
		default:
			c.fail("not a hexadecimal digit")
		}
		r = r<<4 | rune(b)
		c.i++
	}
	return r
}

// number consumes a number and returns its text, and whether it is one without
// fraction and exponent.
func (c *cursor) number() (text []byte, integer bool) {
	c.space()
	start := c.i
	if c.i < len(c.b) && c.b[c.i] == '-' {
		c.i++
	}
	if c.i < len(c.b) && c.b[c.i] == '0' {
		c.i++
	} else {
		c.digits()
	}
	integer = true
	if c.i < len(c.b) && c.b[c.i] == '.' {
		integer = false
		c.i++
		c.digits()
	}
	if c.i < len(c.b) && c.b[c.i]|0x20 == 'e' {
		integer = false
		c.i++
		if c.i < len(c.b) && (c.b[c.i] == '+' || c.b[c.i] == '-') {
			c.i++
		}
		c.digits()
	}
	return c.b[start:c.i], integer
}

func (c *cursor) digits() {
	from := c.i
	for c.i < len(c.b) && c.b[c.i] >= '0' && c.b[c.i] <= '9' {
		c.i++
	}
	if c.i == from {
		c.fail("a digit is missing")
	}
}

// skip reads over a value, which has to be well-formed.
func (c *cursor) skip() {
	switch b := c.peek(); {
	case b == '{':
		c.object(func(string) { c.skip() })
	case b == '[':
		c.array(c.skip)
	case b == '"':
		c.text()
	case b == 't':
		c.word("true")
	case b == 'f':
		c.word("false")
	case b == 'n':
		c.word("null")
	case b == '-' || b >= '0' && b <= '9':
		c.number()
	default:
		c.fail("a value is missing")
	}
}

// integer is an exact integer, of the range of both int64 and uint64.
type integer struct {
	negative bool
	value    uint64 // without the sign
}

// parseInteger reads what number has found to be an integer; ok is false where
// it has more than 64 bits.
func parseInteger(text []byte) (n integer, ok bool) {
	if text[0] == '-' {
		n.negative = true
		text = text[1:]
	}
	v, err := strconv.ParseUint(string(text), 10, 64)
	n.value = v
	return n, err == nil && (!n.negative || v <= 1<<63)
}

// signed returns the integer as an int64, if it is one.
func (n integer) signed() (int64, bool) {
	if n.negative {
		return -int64(n.value), true // 1<<63 becomes itself
	}
	return int64(n.value), n.value <= math.MaxInt64
}

// unsigned returns the integer as a uint64, if it is one. -0 is 0.
func (n integer) unsigned() (uint64, bool) { return n.value, !n.negative || n.value == 0 }
