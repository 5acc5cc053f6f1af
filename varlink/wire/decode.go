package wire

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// FieldError is a field of an object that is missing, unknown, there twice, or
// of a wrong type or size.
type FieldError struct {
	Field string // its path, such as wanted[2].mode
	Text  string // what is wrong, for people
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Text }

// Decode reads a JSON object strictly into the struct that into points to.
// Each exported field is a member under the name of its json tag, also those of
// embedded structs. A pointer is
// a nullable member (?T): null and absent both leave it nil; so is a slice with
// the tag option "omitempty". All others have to be there. The types are string,
// bool, the integers, []byte (base64 in a string), structs, and slices and
// pointers of these.
//
// The error is a *FieldError, or a *SyntaxError where the text is not JSON. No
// text at all is the empty object. After an error into is in no defined state.
func Decode(text []byte, into any) (err error) {
	defer guard(&err)
	v := reflect.ValueOf(into).Elem()
	d := decoder{cursor{b: text}}
	if len(text) == 0 {
		shapeOf(v.Type()).missing("", 0)
		return nil
	}
	d.object(v, "")
	d.end()
	return nil
}

// shape is how a struct looks as an object. It is made once for each type.
type shape struct {
	members  []member
	index    map[string]int // of members, by name
	required uint64         // a bit for each member, which is why there are 64 at most
}

// member is a field of a struct.
type member struct {
	name     string
	field    []int // for FieldByIndex
	nullable bool
}

var shapes sync.Map // reflect.Type: *shape

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := &shape{index: make(map[string]int)}
	s.add(t, nil)
	if len(s.members) > 64 {
		panic(fmt.Sprintf("wire: %v has more than 64 members", t))
	}
	shapes.Store(t, s)
	return s
}

// add adds the fields of a struct that is found at path, and those of the structs
// embedded in it.
func (s *shape) add(t reflect.Type, path []int) {
	for i := range t.NumField() {
		field := t.Field(i)
		at := append(slices.Clone(path), i)
		if field.Anonymous {
			s.add(field.Type, at)
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		m := member{name, at, field.Type.Kind() == reflect.Pointer || strings.Contains(options, "omitempty")}
		if s.index[name] = len(s.members); !m.nullable {
			s.required |= 1 << len(s.members)
		}
		s.members = append(s.members, m)
	}
}

// missing panics if a required member has not been seen.
func (s *shape) missing(path string, seen uint64) {
	for i, m := range s.members {
		if s.required&^seen&(1<<i) != 0 {
			panic(&FieldError{path + m.name, "it is missing"})
		}
	}
}

// maxElements is how many elements an array may have. Each may take much more memory
// than the two bytes that it takes in the message, which is all that the user pays for.
const maxElements = 1 << 16

// decoder reads values of known types. Its methods panic, as those of cursor do.
type decoder struct{ cursor }

// refuse ends the decoding. path names the field for the caller; text is never echoed
// unless it was clipped.
func (d *decoder) refuse(path, format string, args ...any) {
	if path == "" {
		path = "parameters"
	}
	panic(&FieldError{path, fmt.Sprintf(format, args...)})
}

// object reads an object into a struct. path ends in a dot, or is empty.
func (d *decoder) object(v reflect.Value, path string) {
	if d.peek() != '{' {
		d.refuse(strings.TrimSuffix(path, "."), "it takes an object, not %s", d.kind())
	}
	s := shapeOf(v.Type())
	var seen uint64
	d.cursor.object(func(key string) {
		i, known := s.index[key]
		switch {
		case !known:
			d.refuse(path+clip(key), "there is no such field")
		case seen&(1<<i) != 0:
			d.refuse(path+key, "it is given twice")
		}
		seen |= 1 << i
		m := &s.members[i]
		if d.peek() == 'n' {
			if d.null(); !m.nullable {
				d.refuse(path+key, "it takes a value, not null")
			}
			return
		}
		d.value(v.FieldByIndex(m.field), path+key)
	})
	s.missing(path, seen)
}

// value reads a value that is not null.
func (d *decoder) value(v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(v.Elem(), path)
	case reflect.Struct:
		d.object(v, path+".")
	case reflect.String:
		v.SetString(d.string(path))
	case reflect.Bool:
		v.SetBool(d.bool(path))
	case reflect.Int, reflect.Int64:
		n, ok := d.integer(path).signed()
		if !ok {
			d.refuse(path, "it is larger than a signed number of 64 bits")
		}
		v.SetInt(n)
	case reflect.Uint32, reflect.Uint64:
		n, ok := d.integer(path).unsigned()
		switch {
		case !ok:
			d.refuse(path, "it is negative")
		case v.OverflowUint(n):
			d.refuse(path, "%d is too large, %d is the largest", n, uint32(1<<32-1))
		}
		v.SetUint(n)
	case reflect.Slice:
		d.slice(v, path)
	default:
		panic(fmt.Sprintf("wire: can't decode into %v", v.Type()))
	}
}

func (d *decoder) slice(v reflect.Value, path string) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		text := d.string(path)
		raw, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || strings.ContainsAny(text, "\r\n") { // which the decoder skips
			d.refuse(path, "it is not base64")
		}
		v.SetBytes(raw)
		return
	}
	if d.peek() != '[' {
		d.refuse(path, "it takes an array, not %s", d.kind())
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	d.array(func() {
		at := fmt.Sprintf("%s[%d]", path, v.Len())
		if v.Len() == maxElements {
			d.refuse(path, "it has more than %d elements", maxElements)
		}
		if d.peek() == 'n' {
			d.refuse(at, "it takes a value, not null")
		}
		v.Grow(1)
		v.SetLen(v.Len() + 1)
		element := v.Index(v.Len() - 1)
		element.SetZero()
		d.value(element, at)
	})
}

func (d *decoder) string(path string) string {
	if d.peek() != '"' {
		d.refuse(path, "it takes a string, not %s", d.kind())
	}
	return d.text()
}

func (d *decoder) bool(path string) bool {
	switch d.peek() {
	case 't':
		d.word("true")
		return true
	case 'f':
		d.word("false")
		return false
	}
	d.refuse(path, "it takes true or false, not %s", d.kind())
	return false
}

func (d *decoder) integer(path string) integer {
	if b := d.peek(); b != '-' && (b < '0' || b > '9') {
		d.refuse(path, "it takes a whole number, not %s", d.kind())
	}
	text, whole := d.number()
	if !whole {
		d.refuse(path, "it takes a whole number without fraction and exponent, not %s", clip(string(text)))
	}
	n, ok := parseInteger(text)
	if !ok {
		d.refuse(path, "it has more than 64 bits")
	}
	return n
}

// kind names the next value, for a message.
func (d *decoder) kind() string {
	switch d.peek() {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "true or false"
	case 'n':
		return "null"
	}
	return "a number"
}

// clip shortens what a caller has sent, for a message, and leaves it valid UTF-8.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}
