package test

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// unit is the part of the driver that writes calls and reads replies, as a process under the
// sanitizers.
var unit = sync.OnceValues(func() (*unitProcess, error) {
	cmd := exec.Command(root + "/bin/sanitize/reply")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &unitProcess{in: in, out: out}, cmd.Start()
})

type unitProcess struct {
	mu  sync.Mutex
	in  io.Writer
	out io.Reader
}

// ask sends a frame (driver/unit/reply.c) and returns the answer.
func (u *unitProcess) ask(t *testing.T, kind byte, count int, text string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	frame := binary.NativeEndian.AppendUint32([]byte{kind}, uint32(count))
	frame = binary.NativeEndian.AppendUint32(frame, uint32(len(text)))
	_, err := u.in.Write(append(frame, text...))
	require.NoError(t, err, "the driver's part has ended")
	var length uint32
	require.NoError(t, binary.Read(u.out, binary.NativeEndian, &length), "the driver's part has ended")
	answer := make([]byte, length)
	_, err = io.ReadFull(u.out, answer)
	require.NoError(t, err)
	return string(answer)
}

const bad = "bad"

// What a reply means to the driver: "bad", or whether what was asked for is there, the error and its
// message.
func TestReplies(t *testing.T) {
	u, err := unit()
	require.NoError(t, err)
	deep := strings.Repeat("[", 15) + strings.Repeat("]", 15)
	for text, want := range map[string]string{
		`{"parameters":{"granted":[{},{}]}}`:                        "1\x00",
		"\t{ \"parameters\" :\r\n{ \"granted\" : [ 1 , null ] } } ": "1\x00",
		`{"parameters":{"granted":[{}]}}`:                           "0\x00",
		`{"parameters":{}}`:                                         "0\x00",
		`{}`:                                                        "0\x00",
		`{"parameters":{"new":{"a":[1,-2.5e+3,true,false,null,"x"]}}}`: "0\x00",
		`{"error":"a.b.C"}`: "0a.b.C\x00",
		`{"error":"a.b.C","parameters":{"message":"x \"\\\/\b\f\n\r\té𝄞"}}`: "0a.b.C\x00x \"\\/\b\f\n\r\té𝄞",
		`{"parameters":{"message":"\u00e9\ud834\udd1e\u20AC"},"error":"E"}`: "0E\x00é𝄞€",
		`{"parameters":{"x":` + deep + `}}`:                                 "0\x00",
		`{"parameters":{"x":[` + deep + `]}}`:                               "0\x00",
	} {
		require.Equal(t, want, u.ask(t, 'A', 2, text), "%s", text)
		for cut := range len(strings.TrimRight(text, " ")) {
			require.Equal(t, bad, u.ask(t, 'A', 2, text[:cut]), "%s", text[:cut])
		}
	}
	for _, text := range []string{``, `null`, `[]`, `{`, `{}}`, `{"error":""}`, `{"error":null}`, `{"Error":"x"}`, `{,}`,
		`{"error":"x",}`, `{"error":"a","error":"b"}`, `{"parameters":null}`, `{"parameters":[]}`,
		`{"parameters":{},"parameters":{}}`, `{"continues":true,"parameters":{}}`, `{"parameters":{"message":1}}`,
		`{"parameters":{"granted":{}}}`, `{"parameters":{"x":[[` + deep + `]]}}`} {
		require.Equal(t, bad, u.ask(t, 'A', 2, text), "%s", text)
	}
	for _, value := range []string{`01`, `1.`, `-`, `+1`, `1e`, `NaN`, `nul`, `'a'`, `[1,]`, `[,1]`, `{"a"}`, `{"a":1,}`,
		`"\u12"`, `"\x"`, "\"\n\"", `"\ud834"`, `"\udd1e"`, `"\u0000"`, `"\ud834\u0041"`, "\"\xff\"",
		"\"\xed\xa0\x80\"", "\"\xc0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xe2\x82\"", "\"\xe2\x82"} {
		require.Equal(t, bad, u.ask(t, 'A', 2, `{"parameters":{"x":`+value+`}}`), "%s", value)
	}
	require.Equal(t, "1\x00", u.ask(t, 'R', 2, `{"parameters":{"released":0}}`))
	require.Equal(t, "0\x00", u.ask(t, 'R', 2, `{"parameters":{"granted":[1,2]}}`))
	long := u.ask(t, 'A', 2, `{"error":"E","parameters":{"message":"`+strings.Repeat("€", 2000)+`"}}`)
	require.Equal(t, "0E\x00"+strings.Repeat("€", 1023/3), long, "no character is cut")
	// A key that is too long for any that is looked for is not taken for its beginning.
	require.Equal(t, "0\x00", u.ask(t, 'A', 2, `{"parameters":{"`+strings.Repeat("granted", 9)+`":[1,2]}}`))
	require.Equal(t, bad, u.ask(t, 'A', 2, `{"parametersparameters":{}}`))
}

func FuzzReply(f *testing.F) {
	for _, text := range []string{
		`{"parameters":{"granted":[{"lockspace":"libvirt","resource":"a","lockId":3,"token":1795716509042224}]}}`,
		`{"parameters":{"released":1}}`,
		`{"error":"org.example.DlmLock.WouldBlock","parameters":{"message":"é\n","holder":null}}`,
		`{"parameters":{"message":"\ud834\udd1e"},"error":"a.b"}`, `{"parameters":{"x":[[[-1.5e3,true]]]}}`,
	} {
		f.Add(text)
	}
	u, err := unit()
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text string) {
		got := u.ask(t, 'A', 1, text)
		want, plain := reference(text)
		if got == bad {
			require.False(t, plain, "refused: %s", text)
			return
		}
		require.True(t, json.Valid([]byte(text)) && utf8.ValidString(text), "taken: %s", text)
		require.Equal(t, want, got, "%s", text)
	})
}

// reference reads a reply with encoding/json, which takes more than the driver does. plain says that
// the driver has to take it, too: it has nothing that only the driver refuses.
func reference(text string) (answer string, plain bool) {
	var top struct {
		Error      *string                    `json:"error"`
		Parameters map[string]json.RawMessage `json:"parameters"`
	}
	var keys map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &top) != nil || json.Unmarshal([]byte(text), &keys) != nil {
		return "", false
	}
	done, name, message := "0", "", ""
	var granted []json.RawMessage
	if raw, ok := top.Parameters["granted"]; ok && json.Unmarshal(raw, &granted) == nil && len(granted) == 1 {
		done = "1"
	}
	if top.Error != nil {
		name = limited(*top.Error, 127)
	}
	if raw, ok := top.Parameters["message"]; ok && json.Unmarshal(raw, &message) == nil {
		message = limited(message, 1023)
	}
	plain = len(keys) == 2 && name != "" && top.Parameters != nil && utf8.ValidString(text) &&
		strings.Count(text, "{")+strings.Count(text, "[") < 8 && !strings.Contains(text, `\u`) &&
		keys["error"] != nil && keys["parameters"] != nil && strings.Count(text, "error") == 1 &&
		strings.Count(text, "parameters") == 1 && !strings.Contains(text, "granted") &&
		!strings.Contains(text, "message") && strings.Count(text, `"`) < 9
	return done + name + "\x00" + message, plain
}

// limited is what fits into so many bytes, without half a character.
func limited(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Whatever is text comes back from a JSON parser as it was, and nothing else is sent.
func FuzzText(f *testing.F) {
	for _, text := range []string{"", "web: /img/a \"b\" \\ c", "\x01\x1f\x7f\t\n", "é€𝄞", "\xff", "a\xed\xa0\x80",
		"\xf4\x90\x80\x80"} {
		f.Add(text)
	}
	u, err := unit()
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text string) {
		text, _, _ = strings.Cut(text, "\x00")
		got := u.ask(t, 'T', 0, text)
		if !utf8.ValidString(text) {
			require.Equal(t, bad, got)
			return
		}
		var back string
		require.NoError(t, json.Unmarshal([]byte(got), &back), "%s", got)
		require.Equal(t, text, back)
	})
}
