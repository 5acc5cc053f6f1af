package state

import (
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/dlmlock/dlmlockd/dlm"
)

// format is the version of the schema that this package writes. Any change of the schema, a new key
// included, is a new format, because a reader refuses what it does not know. All formats from
// oldest on are read, so the locks survive an upgrade of the service. Format 2 added on-lost,
// on-lost-data, reason and the phase lost.
const (
	format = 2
	oldest = 1
)

// banner is the top of every file. The loader expects it byte for byte, like everything else.
const banner = "# The cluster locks of this node, kept by dlmlockd. Do not edit: a table whose\n" +
	"# text was changed fails its check and is set aside. docs/state-file.md says more.\n"

const (
	copyTable  = "[header-copy]\n" // the header once more, for when one of the two is damaged
	lockTable  = "[[lock]]\n"      // a whole lock
	markTable  = "[[mark]]\n"      // what has changed about one; small, since it may have to fit into padding
	spaceTable = "[[lockspace]]\n" // a whole lockspace

	checkKey = `check = "`
	// checkLen is the length of a check line: the key, eight hexadecimal digits, the quote and the
	// line break.
	checkLen = len(checkKey) + 8 + 2
)

// castagnoli is the table of CRC-32C, which detects all damage of up to 32 bits in a row and is one
// instruction on most machines. It is no protection against intent: whoever can write the file is root.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// key holds the names of one string in its two forms: as text, or in hexadecimal if the text would
// be unreadable or could look like something else.
type key struct{ text, hex string }

func newKey(name string) key { return key{name + ` = "`, name + `-hex = "`} }

var (
	keyBootID    = newKey("boot-id")
	keyCluster   = newKey("cluster")
	keyEngine    = newKey("engine")
	keyInstance  = newKey("instance")
	keyLockspace = newKey("lockspace")
	keyResource  = newKey("resource")
	keyOwner     = newKey("owner")
	keyLabel     = newKey("label")
	keySender    = newKey("sender")
	keyBusID     = newKey("bus-id")
	keyName      = newKey("name")
	keyOnLost    = newKey("on-lost")
	keyLostData  = newKey("on-lost-data")
	keyReason    = newKey("reason")
)

// appendHeader appends the two copies of the header. Without one the whole file would be lost, since
// nothing would say which boot its locks are of.
func appendHeader(b []byte, h Header, nextID uint64) []byte {
	for i, top := range [...]string{banner, copyTable} {
		if i > 0 {
			b = append(b, '\n')
		}
		start := len(b)
		b = append(b, top...)
		b = appendInt(b, "format = ", uint64(h.Format))
		b = appendString(b, keyBootID, h.BootID)
		b = appendInt(b, "node-id = ", uint64(h.NodeID))
		b = appendString(b, keyCluster, h.Cluster)
		b = appendString(b, keyEngine, h.Engine)
		b = appendString(b, keyInstance, h.Instance)
		b = appendTime(b, "created = ", h.Created)
		b = appendInt(b, "next-id = ", nextID)
		b = appendCheck(b, start)
	}
	return b
}

// appendChange appends one record, with an empty line before it. The change must have passed
// validate.
func appendChange(b []byte, c Change) []byte {
	b = append(b, '\n')
	switch c := c.(type) {
	case Lock:
		return appendLock(b, &c)
	case Mark:
		return appendMark(b, &c)
	case Lockspace:
		return appendSpace(b, &c)
	}
	return b
}

// appendLock writes a [[lock]] table. What is zero is left out, but for what every lock has;
// the decoder expects the keys in this order.
func appendLock(b []byte, l *Lock) []byte {
	start := len(b)
	b = append(b, lockTable...)
	b = appendInt(b, "id = ", l.ID)
	b = appendString(b, keyLockspace, l.Lockspace)
	b = appendString(b, keyResource, l.Resource)
	b = appendInt(b, "lockid = ", uint64(l.LockID))
	b = appendWord(b, "mode = \"", l.Mode.String())
	b = appendWord(b, "phase = \"", phaseNames[l.Phase])
	b = appendToken(b, l.Token)
	if l.HasOwner {
		b = appendString(b, keyOwner, l.Owner)
	}
	if l.Label != "" {
		b = appendString(b, keyLabel, l.Label)
	}
	b = appendWord(b, "lifetime = \"", lifetimeNames[l.Lifetime])
	b = appendInt(b, "uid = ", uint64(l.UID))
	if l.PID != 0 {
		b = appendInt(b, "pid = ", uint64(l.PID))
	}
	if l.PIDStart != 0 {
		b = appendInt(b, "pid-start = ", l.PIDStart)
	}
	if l.Session != "" {
		b = appendString(b, keySender, l.Session)
	}
	if l.SessionBus != "" {
		b = appendString(b, keyBusID, l.SessionBus)
	}
	if !l.Since.IsZero() {
		b = appendTime(b, "since = ", l.Since)
	}
	for _, s := range [...]struct {
		key   key
		value string
	}{{keyOnLost, l.OnLost}, {keyLostData, l.OnLostData}, {keyReason, l.Reason}} {
		if s.value != "" {
			b = appendString(b, s.key, s.value)
		}
	}
	return appendCheck(b, start)
}

// appendMark writes a [[mark]] table with the keys that change something.
func appendMark(b []byte, m *Mark) []byte {
	start := len(b)
	b = append(b, markTable...)
	b = appendInt(b, "id = ", m.ID)
	if m.Phase != 0 {
		b = appendWord(b, "phase = \"", phaseNames[m.Phase])
	}
	if m.HasMode {
		b = appendWord(b, "mode = \"", m.Mode.String())
		b = appendToken(b, m.Token)
	}
	if m.Session != "" {
		b = appendString(b, keySender, m.Session)
		b = appendString(b, keyBusID, m.SessionBus)
	}
	return appendCheck(b, start)
}

// appendSpace writes a [[lockspace]] table.
func appendSpace(b []byte, s *Lockspace) []byte {
	start := len(b)
	b = append(b, spaceTable...)
	b = appendString(b, keyName, s.Name)
	b = appendWord(b, "phase = \"", spacePhaseNames[s.Phase])
	if s.AnchorID != 0 {
		b = appendInt(b, "anchor-lockid = ", uint64(s.AnchorID))
	}
	return appendCheck(b, start)
}

// appendCheck ends the record that begins at start.
func appendCheck(b []byte, start int) []byte {
	return appendSum(b, crc32.Checksum(b[start:], castagnoli))
}

// appendSum ends a record with the checksum of its text.
func appendSum(b []byte, sum uint32) []byte {
	const digits = "0123456789abcdef"
	b = append(b, checkKey...)
	for shift := 28; shift >= 0; shift -= 4 {
		b = append(b, digits[sum>>shift&15])
	}
	return append(b, '"', '\n')
}

func appendInt(b []byte, key string, v uint64) []byte {
	return append(strconv.AppendUint(append(b, key...), v, 10), '\n')
}

// appendToken writes a token as a string, because it may use all 64 bits and TOML's integers are
// signed. Zero means that there is no token, and is not written.
func appendToken(b []byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	b = append(b, "token = \""...)
	return append(strconv.AppendUint(b, v, 10), '"', '\n')
}

func appendWord(b []byte, key, word string) []byte {
	return append(append(append(b, key...), word...), '"', '\n')
}

func appendTime(b []byte, key string, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, key...), time.RFC3339Nano), '\n')
}

// appendString writes a text. One that is no printable UTF-8 is written in hexadecimal digits,
// under the key with -hex.
func appendString(b []byte, k key, s string) []byte {
	if !readable(s) {
		b = append(b, k.hex...)
		b = hex.AppendEncode(b, []byte(s))
		return append(b, '"', '\n')
	}
	b = append(b, k.text...)
	from := 0
	for i := 0; i < len(s); i++ {
		if s[i] == '"' || s[i] == '\\' {
			b = append(append(b, s[from:i]...), '\\')
			from = i
		}
	}
	return append(append(b, s[from:]...), '"', '\n')
}

// readable reports whether s is written as text: UTF-8 without control characters and without
// characters that change how a line looks (direction marks, line separators, the byte order mark).
// The list is fixed here and not taken from Unicode tables, because those grow with the compiler,
// and a file must mean the same to the next version.
func readable(s string) bool {
	ascii := true
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c < 0x20 || c == 0x7f {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	if ascii {
		return true
	}
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		switch {
		case r >= 0x80 && r <= 0x9f, // C1 controls
			r == 0x61c, r == 0x200e, r == 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, // direction
			r == 0x2028, r == 0x2029, // line and paragraph separator
			r == 0xfeff: // byte order mark
			return false
		}
	}
	return true
}

// validate reports whether c can be written to the file. The error wraps ErrRecord.
func validate(c Change) error {
	bad := func(field string, v any) error { return fmt.Errorf("%w: %T with %s %v", ErrRecord, c, field, v) }
	switch c := c.(type) {
	case Lock:
		switch {
		case !validID(c.ID):
			return bad("ID", c.ID)
		case !c.Mode.Valid():
			return bad("Mode", c.Mode)
		case c.Phase < Granted || c.Phase > Lost || c.Phase == Gone:
			return bad("Phase", c.Phase)
		case int(c.Lifetime) >= len(lifetimeNames):
			return bad("Lifetime", c.Lifetime)
		case c.PIDStart > math.MaxInt64:
			return bad("PIDStart", c.PIDStart)
		case !validTime(c.Since):
			return bad("Since", c.Since)
		}
	case Mark:
		switch {
		case !validID(c.ID):
			return bad("ID", c.ID)
		case c.HasMode && !c.Mode.Valid():
			return bad("Mode", c.Mode)
		case c.Phase > Gone:
			return bad("Phase", c.Phase)
		}
	case Lockspace:
		if c.Phase < Creating || c.Phase > Left {
			return bad("Phase", c.Phase)
		}
	default:
		return fmt.Errorf("%w: %T", ErrRecord, c)
	}
	return nil
}

// validID reports whether an ID is in range. IDs count up from 1, and the next number must still be
// a TOML integer.
func validID(id uint64) bool { return id > 0 && id < math.MaxInt64 }

// validTime reports whether TOML can express t: its years have four digits.
func validTime(t time.Time) bool { y := t.UTC().Year(); return y >= 1 && y <= 9999 }

// modeOf reads the two letters that Mode.String writes.
func modeOf(word []byte) (dlm.Mode, bool) {
	for _, m := range dlm.Modes {
		if string(word) == m.String() {
			return m, true
		}
	}
	return dlm.None, false
}
