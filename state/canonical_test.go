package state

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/dlmlock/dlmlockd/dlm"
)

// decodes adds a check line to the text of a record, and reports whether the record is then accepted.
// It requires that what is accepted is what the encoder writes, byte for byte.
func decodes(t require.TestingT, text string) bool {
	sealed := appendCheck([]byte(text), 0)
	var d decoder
	var r decoded
	var again []byte
	switch d.verified(sealed, &r) {
	case lockRecord:
		again = appendLock(nil, &r.lock)
	case markRecord:
		again = appendMark(nil, &r.mark)
	case spaceRecord:
		again = appendSpace(nil, &r.space)
	default:
		return false
	}
	require.Equal(t, string(again), string(sealed), "accepted, but the encoder writes something else")
	return true
}

// fullLock has every key.
var fullLock = Lock{
	ID: 7, Lockspace: "vms", Resource: "disk1", LockID: 10, Mode: dlm.EX, Phase: Granted, Token: 3, Owner: "a\"b",
	HasOwner: true, Label: "l\x01", Lifetime: Process, UID: 1000, PID: 4711, PIDStart: 99, Session: ":1.42",
	SessionBus: "d8506a", Since: time.Unix(1795716509, 120_000_000).UTC(), OnLost: "fence", OnLostData: "x",
	Reason: "gone",
}

// TestOtherSpellingsAreRefused tries, for each kind of value, spellings that mean the same or nearly
// the same to a reader of TOML.
func TestOtherSpellingsAreRefused(t *testing.T) {
	lock := string(appendLock(nil, &fullLock))
	lock = lock[:len(lock)-checkLen]
	require.True(t, decodes(t, lock))
	mark := "[[mark]]\nid = 7\nsender = \":1.42\"\nbus-id = \"\"\n"
	require.True(t, decodes(t, mark))
	space := "[[lockspace]]\nname = \"vms\"\nphase = \"joined\"\nanchor-lockid = 1\n"
	require.True(t, decodes(t, space))
	for _, c := range []struct{ text, from, to string }{
		{lock, "id = 7", "id = 07"},
		{lock, "id = 7", "id = +7"},
		{lock, "lockid = 10", "lockid = 010"},
		{lock, "lockid = 10", "lockid = 1_0"},
		{lock, `token = "3"`, `token = "03"`},
		{lock, `token = "3"`, `token = "0"`},
		{lock, `token = "3"`, `token = ""`},
		{lock, "uid = 1000", "uid = 01000"},
		{lock, "pid = 4711", "pid = 0"},
		{lock, "pid-start = 99", "pid-start = 0"},
		{lock, `phase = "granted"`, `phase = "gone"`},
		{lock, `resource = "disk1"`, `resource = "d\isk1"`},
		{lock, `resource = "disk1"`, `resource-hex = "6469736b31"`},
		{lock, `resource = "disk1"`, "resource = \"disk\x01\""},
		{lock, `resource = "disk1"`, "resource = \"disk\x7f\""},
		{lock, `resource = "disk1"`, "resource = \"disk\u202e\""},
		{lock, `resource = "disk1"`, "resource = \"disk\xff\""},
		{lock, `resource = "disk1"`, `resource = 'disk1'`},
		{lock, `label-hex = "6c01"`, `label-hex = "6C01"`},
		{lock, `label-hex = "6c01"`, `label-hex = ""`},
		{lock, `label-hex = "6c01"`, `label = ""`},
		{lock, `sender = ":1.42"`, `sender = ""`},
		{lock, `bus-id = "d8506a"`, `bus-id = ""`},
		{lock, `on-lost = "fence"`, `on-lost = ""`},
		{lock, `on-lost-data = "x"`, `on-lost-data = ""`},
		{lock, `reason = "gone"`, `reason = ""`},
		{lock, ".12Z", ".120Z"},
		{lock, ".12Z", ".0Z"},
		{lock, ".12Z", ".Z"},
		{lock, ".12Z", ",12Z"},
		{lock, ".12Z", ".12z"},
		{lock, ".12Z", ".12+00:00"},
		{lock, ".12Z", ".12-00:00"},
		{lock, ".12Z", ".1234567891Z"},
		{lock, "since = 2026-11-26T18:08:29.12Z", "since = 0001-01-01T00:00:00Z"},
		{lock, "since = 2026-11-26T18:08:29.12Z", "since = 0000-01-01T00:00:00Z"},
		{lock, "since = 2026-11-26T18:08:29.12Z", "since = 2026-02-30T00:00:00Z"},
		{lock, "since = 2026-11-26T18:08:29.12Z", "since = 2026-11-26T24:00:00Z"},
		{lock, "since = 2026-11-26T18:08:29.12Z", "since = 2026-11-26T6:08:29Z"},
		{lock, "since = 2026-11-26T18:08:29.12Z", "since = 2026-11-26T6:08:29.5Z"},
		{lock, "since = 2026-11-26T18:08:29.12Z", "since = 2026-11-26t16:08:29Z"},
		{mark, `sender = ":1.42"`, `sender = ""`},
		{mark, "sender = \":1.42\"\nbus-id = \"\"\n", "sender = \"\"\n"},
		{mark, "id = 7\n", "id = 7\nphase = \"lost\"\n"},
		{space, "anchor-lockid = 1", "anchor-lockid = 0"},
	} {
		require.Contains(t, c.text, c.from)
		require.False(t, decodes(t, strings.Replace(c.text, c.from, c.to, 1)), "%q for %q", c.to, c.from)
	}
}

// TestDecodesOnlyWhatIsEncoded changes the texts of records at random, in ways that are likely to be
// accepted. What is accepted must be what the encoder writes.
func TestDecodesOnlyWhatIsEncoded(t *testing.T) {
	piece := rapid.SampledFrom([]string{"", "0", "00", "1", "9", "a", "A", "f", ".", "Z", "+", "-", "_", " ", "\"",
		"\\", "\\\\", "\\\"", "\n", "\x01", "\x7f", "\u202e", "\xff", "-hex", "=", "token = \"0\"\n", "label = \"\"\n",
		"pid = 0\n", "since = 2026-11-26T16:08:29.5Z\n"})
	rapid.Check(t, func(rt *rapid.T) {
		text := string(appendChange(nil, anyChange.Draw(rt, "change"))[1:])
		text = text[:len(text)-checkLen]
		decodes(rt, text)
		for range rapid.IntRange(1, 3).Draw(rt, "changes") {
			at := rapid.IntRange(0, len(text)).Draw(rt, "at")
			n := rapid.IntRange(0, min(2, len(text)-at)).Draw(rt, "removed")
			text = text[:at] + piece.Draw(rt, "put in") + text[at+n:]
			decodes(rt, text)
		}
	})
}
