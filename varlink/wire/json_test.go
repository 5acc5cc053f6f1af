package wire

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

type inner struct {
	Name  string  `json:"name"`
	Limit *uint32 `json:"limit"`
}

type named struct {
	Name string `json:"name"`
}

type sample struct {
	named
	Count  int64    `json:"count"`
	Token  *uint64  `json:"token"`
	Force  *bool    `json:"force"`
	Data   []byte   `json:"data,omitempty"`
	Inner  *inner   `json:"inner"`
	Many   []inner  `json:"many,omitempty"`
	Labels []string `json:"labels,omitempty"`
}

func TestDecode(t *testing.T) {
	var s sample
	require.NoError(t, Decode([]byte(` { "name" : "a\u00e9\ud83d\ude00\n☃" , "count":-9223372036854775808,
		"token":18446744073709551615,
		"force":true,"data":"AAEC/w==","inner":{"name":"i","limit":7},
		"many":[{"name":"x"},{"name":"y","limit":null}],"labels":["l"]} `), &s))
	seven, token, force := uint32(7), uint64(math.MaxUint64), true
	require.Equal(t, sample{named: named{"aé😀\n☃"}, Count: math.MinInt64, Token: &token,
		Force: &force, Data: []byte{0, 1, 2, 255},
		Inner: &inner{"i", &seven}, Many: []inner{{Name: "x"}, {Name: "y"}}, Labels: []string{"l"}}, s)

	var none struct{}
	require.NoError(t, Decode(nil, &none))
	require.NoError(t, Decode([]byte("{}"), &none))
	var s2 sample
	text := `{"name":"","count":9007199254740993,"token":null,"data":null,"inner":null,"many":null}`
	require.NoError(t, Decode([]byte(text), &s2))
	require.Equal(t, sample{Count: 1<<53 + 1}, s2)
}

// What encoding/json lets through is refused, and the error names the field.
func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ text, field, says string }{
		{`{"count":1}`, "name", "missing"},
		{``, "name", "missing"},
		{`{"name":"a","count":1,"NAME":"b"}`, "NAME", "no such field"},
		{`{"name":"a","count":1,"name":"b"}`, "name", "twice"},
		{`{"name":"a","count":1,"n\u0061me":"b"}`, "name", "twice"},
		{`{"name":null,"count":1}`, "name", "not null"},
		{`{"name":1,"count":1}`, "name", "a string, not a number"},
		{`{"name":"a","count":"1"}`, "count", "a whole number, not a string"},
		{`{"name":"a","count":1.0}`, "count", "without fraction"},
		{`{"name":"a","count":1e3}`, "count", "without fraction"},
		{`{"name":"a","count":9223372036854775808}`, "count", "larger"},
		{`{"name":"a","count":-9223372036854775809}`, "count", "64 bits"},
		{`{"name":"a","count":1,"token":18446744073709551616}`, "token", "64 bits"},
		{`{"name":"a","count":1,"token":-1}`, "token", "negative"},
		{`{"name":"a","count":1,"force":1}`, "force", "true or false"},
		{`{"name":"a","count":1,"force":"true"}`, "force", "true or false"},
		{`{"name":"a","count":1,"data":"AAE"}`, "data", "base64"},
		{`{"name":"a","count":1,"data":"AAE=\n"}`, "data", "base64"},
		{`{"name":"a","count":1,"data":[1]}`, "data", "a string, not an array"},
		{`{"name":"a","count":1,"inner":[]}`, "inner", "an object, not an array"},
		{`{"name":"a","count":1,"inner":{}}`, "inner.name", "missing"},
		{`{"name":"a","count":1,"inner":{"name":"b","limit":4294967296}}`, "inner.limit", "too large"},
		{`{"name":"a","count":1,"many":[{"name":"b"},{"name":"c","x":1}]}`, "many[1].x", "no such field"},
		{`{"name":"a","count":1,"many":[{"name":"b"},null]}`, "many[1]", "not null"},
		{`{"name":"a","count":1,"many":{}}`, "many", "an array, not an object"},
		{`{"name":"a","count":1,"labels":[1]}`, "labels[0]", "a string"},
		{`{"name":"a","count":1,"` + strings.Repeat("é", 99) + `":1}`, strings.Repeat("é", 32) + "...", "no such field"},
		{`[]`, "parameters", "an object"},
	} {
		var s sample
		err := Decode([]byte(c.text), &s)
		var fe *FieldError
		require.ErrorAs(t, err, &fe, c.text)
		require.Equal(t, c.field, fe.Field, c.text)
		require.Contains(t, fe.Text, c.says, c.text)
	}
	var s sample
	many := `{"name":"a","count":1,"labels":["` + strings.Repeat(`","`, maxElements) + `"]}`
	require.ErrorContains(t, Decode([]byte(many), &s), "more than 65536 elements")
}

// broken are texts that are no JSON; each is invalid for encoding/json as well,
// but for those where it is too kind.
var broken = []string{
	``, ` `, `{`, `}`, `{]`, `{"a"}`, `{"a":}`, `{"a":1,}`,
	`{,}`, `{"a":1 "b":2}`, `{a:1}`, `{'a':1}`, `{"a":1}}`, `{"a":1} x`,
	`{"a":tru}`, `{"a":nul}`, `{"a":TRUE}`, `{"a":NaN}`,
	`{"a":Infinity}`, `{"a":+1}`, `{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`,
	`{"a":0x1}`,
	`{"a":"` + "\n" + `"}`, `{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u123g"}`, `{"a":"`,
	`{"a":"\`, `{"a":"\"}`, `{"a":[1,]}`, `{"a":[1 2]}`, `{"a":[`, `// {}`, "\xef\xbb\xbf{}",
}

var tooKind = []string{
	"{\"a\":\"\xff\"}", "{\"\xff\":1}", "{\"a\":\"\\u0062\xff\"}", `{"a":"\ud800"}`,
	`{"a":"\ud800\u0041"}`, `{"a":"\udc00"}`, `{"a":"\u0000"}`, `{"a":"\u0041\u0000"}`,
	strings.Repeat(`{"a":`, 33) + "1" + strings.Repeat("}", 33), strings.Repeat(`[`, 33) + strings.Repeat("]", 33),
}

func wellFormed(text []byte) (err error) {
	defer guard(&err)
	c := cursor{b: text}
	c.skip()
	c.end()
	return nil
}

func TestSyntax(t *testing.T) {
	for _, text := range broken {
		require.False(t, json.Valid([]byte(text)), text)
		var se *SyntaxError
		require.ErrorAs(t, wellFormed([]byte(text)), &se, text)
	}
	for _, text := range tooKind {
		require.True(t, json.Valid([]byte(text)), text)
		require.Error(t, wellFormed([]byte(text)), text)
	}
	for _, text := range []string{
		`{}`, `[]`, ` {"a":[1,-0,0.5,1E+9,"",{},[],null,true,false]} `, `"\"\\\/\b\f\n\r\t"`,
		strings.Repeat("[", 32) + strings.Repeat("]", 32),
	} {
		require.NoError(t, wellFormed([]byte(text)), text)
	}
}

func TestEnvelope(t *testing.T) {
	e, err := parseCall([]byte(`{"method":"a.b.C"}`))
	require.NoError(t, err)
	require.Equal(t, envelope{method: "a.b.C"}, e)
	for _, empty := range []string{`{}`, `null`, ` { } `} {
		e, err := parseCall([]byte(`{"method":"a.b.C","parameters":` + empty + `,"more":null,"oneway":false}`))
		require.NoError(t, err, empty)
		require.Equal(t, envelope{method: "a.b.C"}, e, empty)
	}
	e, err = parseCall([]byte(`{"more":true,"parameters":{"x":1},"method":"a.b.C"}`))
	require.NoError(t, err)
	require.Equal(t, envelope{method: "a.b.C", parameters: []byte(`{"x":1}`), more: true}, e)
	for _, bad := range []string{
		``, `{}`, `[]`, `{"method":null}`, `{"method":""}`, `{"method":1}`, `{"METHOD":"a.b.C"}`,
		`{"method":"a.b.C","method":"a.b.D"}`, `{"method":"a.b.C","id":1}`,
		`{"method":"a.b.C","more":true,"oneway":true}`, `{"method":"a.b.C","more":1}`,
		`{"method":"a.b.C","parameters":[]}`, `{"method":"a.b.C","parameters":"x"}`,
		`{"method":"a.b.C","parameters":{"x":}}`,
		`{"method":"a.b.C"}{"method":"a.b.C"}`, `{"method":"a.b.C","upgrade":true,"more":true}`,
	} {
		_, err := parseCall([]byte(bad))
		require.Error(t, err, bad)
	}
}

// The reader agrees with encoding/json wherever that is as strict, never panics,
// and takes nothing that is not valid UTF-8.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"name":"a","count":1,"token":18446744073709551615,"many":[{"name":"x","limit":1}],"data":"AAE="}`))
	f.Add([]byte(`{"method":"a.b.C","parameters":{"a":[1,2,{"b":"\ud83d\ude00"}]},"more":true}`))
	for _, text := range append(broken, tooKind...) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := parseCall(text); err == nil {
			require.True(t, json.Valid(text))
			require.True(t, utf8.Valid(text))
		}
		if wellFormed(text) == nil {
			require.True(t, json.Valid(text))
		}
		var s, again sample
		if len(text) == 0 || Decode(text, &s) != nil {
			return
		}
		require.NoError(t, json.Unmarshal(text, &again))
		for i := range again.Many { // null elements of encoding/json
			require.Equal(t, again.Many[i], s.Many[i])
		}
		require.Equal(t, again, s)
	})
}
