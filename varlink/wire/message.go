package wire

import (
	"bytes"
	"encoding/json"
)

// envelope is a call as it was sent.
type envelope struct {
	method     string
	parameters []byte // the text of the object; empty where there is none
	more       bool
	oneway     bool
	upgrade    bool
}

// parseCall reads the envelope of a call. A client that sends a key which is
// not known, or comes twice, or flags that exclude each other, does not speak
// Varlink, and its next message can't be relied on either. The error is a
// *SyntaxError or a *FieldError.
func parseCall(text []byte) (e envelope, err error) {
	defer guard(&err)
	d := decoder{cursor{b: text}}
	seen := make(map[string]bool, 4)
	d.cursor.object(func(key string) {
		if seen[key] {
			d.refuse(clip(key), "it is given twice")
		}
		seen[key] = true
		if key != "method" && d.null() {
			return
		}
		switch key {
		case "method":
			e.method = d.string(key)
		case "parameters":
			e.parameters = d.parameters()
		case "more":
			e.more = d.bool(key)
		case "oneway":
			e.oneway = d.bool(key)
		case "upgrade":
			e.upgrade = d.bool(key)
		default:
			d.refuse(clip(key), "there is no such key in a call")
		}
	})
	d.end()
	switch {
	case e.method == "":
		d.refuse("method", "it is missing")
	case e.more && e.oneway, e.more && e.upgrade, e.oneway && e.upgrade:
		d.refuse("oneway", "at most one of more, oneway and upgrade can be true")
	}
	return e, nil
}

// parameters returns the text of an object, which it checks; that of an empty
// object is empty.
func (d *decoder) parameters() []byte {
	if d.peek() != '{' {
		d.refuse("parameters", "it takes an object, not %s", d.kind())
	}
	start, empty := d.i, true
	d.cursor.object(func(string) { empty = false; d.skip() })
	if empty {
		return nil
	}
	return d.b[start:d.i]
}

// reply is what is sent.
type reply struct {
	Parameters any    `json:"parameters,omitempty"`
	Continues  bool   `json:"continues,omitempty"`
	Error      string `json:"error,omitempty"`
}

// encodeReply returns the message with its NUL byte. encoding/json is good enough for
// what this side makes: it writes valid UTF-8 and no U+0000 that is not escaped, so no
// other NUL can be in the text.
func encodeReply(r reply) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // names would be hard to read in what varlinkctl prints
	if err := enc.Encode(r); err != nil {
		return nil, err
	}
	text := b.Bytes()
	text[len(text)-1] = 0 // the encoder's newline
	return text, nil
}
