package state

import (
	"bytes"
	"encoding/hex"
	"hash/crc32"
	"math"
	"strings"
	"time"
	"unsafe"

	"github.com/dlmlock/dlmlockd/dlm"
)

// decoder reads the text of records, one after the other. Between records it keeps its buffers, and the
// names that locks tend to have in common (packer).
type decoder struct {
	rest []byte // the part of the text that is not yet read
	// short says that the text ended in the middle of a record. Only then can it be what a write
	// that was cut off has left; anything else is damage.
	short bool
	bad   bool // the text is not a record; nothing more is read from it
	// Strings that are returned may be parts of the text. Whoever sets it sees to it that none of them
	// is used for longer than the text.
	borrow bool

	scratch []byte // for strings that stand in the text in another form
	pack    packer
}

// This is no TOML parser. The file is TOML so that people and other programs can read it, but it is
// read only as this package writes it, byte for byte. If it differs, somebody has changed it, and
// whether a lock is held must not depend on a guess about what they meant.
//
// So each method below takes the one text that the encoder writes for a value, and no other: no
// leading zero, no key with the value that the encoder leaves out, no string in the form that it
// would not choose. Tests compare that with the encoder (FuzzRecord, TestDecodesOnlyWhatIsEncoded);
// encoding each record again here would take as long as decoding it.

// sealed reports whether text ends with a check line, as the encoder writes it, over everything
// before it.
func sealed(text []byte) bool {
	n := len(text) - checkLen
	if n < 0 {
		return false
	}
	var line [checkLen]byte
	return bytes.Equal(appendSum(line[:0], crc32.Checksum(text[:n], castagnoli)), text[n:])
}

// header decodes one of the two headers; top is the text with which it begins.
func (d *decoder) header(text []byte, top string) (h Header, nextID uint64, ok bool) {
	d.begin(text)
	d.must(top)
	h.Format = int(d.integer("format = ", math.MaxInt32))
	if d.bad || h.Format > format {
		return h, 0, !d.bad // nothing else is known about a newer format
	}
	h.BootID = d.str(keyBootID)
	h.NodeID = uint32(d.integer("node-id = ", math.MaxUint32))
	h.Cluster = d.str(keyCluster)
	h.Engine = d.str(keyEngine)
	h.Instance = d.str(keyInstance)
	h.Created = d.time("created = ")
	nextID = d.integer("next-id = ", math.MaxInt64)
	d.end()
	return h, nextID, !d.bad
}

// change decodes the text of one record into one of the three; kind is 0 if the text is no record.
// The result means something only if the text is sealed.
func (d *decoder) change(text []byte, l *Lock, m *Mark, s *Lockspace) (kind recordKind) {
	d.begin(text)
	switch {
	case d.lit(lockTable):
		d.lock(l)
		kind = lockRecord
	case d.lit(markTable):
		d.mark(m)
		kind = markRecord
	case d.lit(spaceTable):
		d.space(s)
		kind = spaceRecord
	default:
		return 0
	}
	if d.end(); d.bad {
		return 0
	}
	return kind
}

// verified is change for a sealed text of which the encoder must have written every byte. What it
// returns is no part of the text.
func (d *decoder) verified(text []byte, r *decoded) recordKind {
	d.borrow = true
	kind := d.change(text, &r.lock, &r.mark, &r.space)
	d.borrow = false
	if kind == lockRecord && r.lock.Phase == Gone || kind == markRecord && r.mark.Phase == Lost {
		return 0
	}
	d.own(kind, r)
	return kind
}

// decoded is one record; its kind says which.
type decoded struct {
	lock   Lock
	packed packed // lock again
	mark   Mark
	space  Lockspace
}

// own makes the strings of a record independent of the text. Those of a lock become parts of the
// packed record.
func (d *decoder) own(kind recordKind, r *decoded) {
	switch kind {
	case lockRecord:
		r.packed = d.pack.pack(&r.lock)
		l := r.packed.unpack()
		l.ID, l.Phase = r.lock.ID, r.lock.Phase
		r.lock = l
	case markRecord:
		r.mark.Session, r.mark.SessionBus = strings.Clone(r.mark.Session), strings.Clone(r.mark.SessionBus)
	case spaceRecord:
		r.space.Name = strings.Clone(r.space.Name)
	}
}

// recordKind is which of the three tables a record is; 0 is none.
type recordKind uint8

const (
	lockRecord recordKind = iota + 1
	markRecord
	spaceRecord
)

// unfinished reports whether text is the beginning of a record, but not all of it, as a write
// leaves it that was interrupted.
func (d *decoder) unfinished(text []byte) bool {
	var l Lock
	var m Mark
	var s Lockspace
	return d.change(text, &l, &m, &s) == 0 && d.short
}

// lock reads a [[lock]] table. The keys stand in the order in which the encoder writes them,
// so reading is one walk; any other order is damage.
func (d *decoder) lock(l *Lock) {
	*l = Lock{ID: d.id()}
	l.Lockspace = d.str(keyLockspace)
	l.Resource = d.str(keyResource)
	l.LockID = dlm.LockID(d.integer("lockid = ", math.MaxUint32))
	l.Mode = d.mode()
	l.Phase = Phase(d.word("phase = \"", phaseNames[:]))
	l.Token = d.token()
	if l.HasOwner = d.has(keyOwner); l.HasOwner {
		l.Owner = d.str(keyOwner)
	}
	l.Label = d.optionalStr(keyLabel)
	l.Lifetime = Lifetime(d.word("lifetime = \"", lifetimeNames[:]))
	l.UID = uint32(d.integer("uid = ", math.MaxUint32))
	l.PID = uint32(d.optional("pid = ", math.MaxUint32))
	l.PIDStart = d.optional("pid-start = ", math.MaxInt64)
	l.Session = d.optionalStr(keySender)
	l.SessionBus = d.optionalStr(keyBusID)
	if d.peek("since = ") {
		l.Since = d.time("since = ")
		d.bad = d.bad || l.Since.IsZero()
	}
	l.OnLost = d.optionalStr(keyOnLost)
	l.OnLostData = d.optionalStr(keyLostData)
	l.Reason = d.optionalStr(keyReason)
}

// mark reads a [[mark]] table.
func (d *decoder) mark(m *Mark) {
	*m = Mark{ID: d.id()}
	if d.peek("phase = \"") {
		m.Phase = Phase(d.word("phase = \"", phaseNames[:]))
	}
	if m.HasMode = d.peek("mode = \""); m.HasMode {
		m.Mode = d.mode()
		m.Token = d.token()
	}
	if m.Session = d.optionalStr(keySender); m.Session != "" {
		m.SessionBus = d.str(keyBusID)
	}
}

// space reads a [[lockspace]] table.
func (d *decoder) space(s *Lockspace) {
	*s = Lockspace{Name: d.str(keyName)}
	s.Phase = SpacePhase(d.word("phase = \"", spacePhaseNames[:]))
	s.AnchorID = dlm.LockID(d.optional("anchor-lockid = ", math.MaxUint32))
}

// begin begins a record. What was found out about the one before does not count any more.
func (d *decoder) begin(text []byte) { d.rest, d.short, d.bad = text, false, false }

// peek reports whether s comes next in the text.
func (d *decoder) peek(s string) bool {
	if d.bad {
		return false
	}
	if len(d.rest) >= len(s) {
		return string(d.rest[:len(s)]) == s
	}
	d.short = d.short || s[:len(d.rest)] == string(d.rest)
	return false
}

// lit consumes s if it comes next in the text.
func (d *decoder) lit(s string) bool {
	if !d.peek(s) {
		return false
	}
	d.rest, d.short = d.rest[len(s):], false
	return true
}

// must reads a text that has to stand here.
func (d *decoder) must(s string) {
	if !d.lit(s) {
		d.bad = true
	}
}

// has reports whether the key comes next, in either form.
func (d *decoder) has(k key) bool { return d.peek(k.text) || d.peek(k.hex) }

// until consumes the text up to and including the next c.
func (d *decoder) until(c byte) []byte {
	if d.bad {
		return nil
	}
	i := bytes.IndexByte(d.rest, c)
	if i < 0 {
		d.short, d.bad = bytes.IndexByte(d.rest, '\n') < 0, true
		return nil
	}
	v := d.rest[:i]
	d.rest = d.rest[i+1:]
	return v
}

// optional reads a number that is missing if it is 0, and only then.
func (d *decoder) optional(key string, limit uint64) uint64 {
	if !d.peek(key) {
		return 0
	}
	n := d.integer(key, limit)
	d.bad = d.bad || n == 0
	return n
}

// optionalStr reads a string that is missing if it is empty, and only then.
func (d *decoder) optionalStr(k key) string {
	if !d.has(k) {
		return ""
	}
	s := d.str(k)
	d.bad = d.bad || s == ""
	return s
}

// integer reads a number that has to be there, of at most limit.
func (d *decoder) integer(key string, limit uint64) uint64 {
	d.must(key)
	return d.number(d.until('\n'), limit)
}

// number reads decimal digits, without leading zeros.
func (d *decoder) number(digits []byte, limit uint64) (n uint64) {
	d.bad = d.bad || len(digits) == 0 || digits[0] == '0' && len(digits) > 1
	for _, c := range digits {
		v := uint64(c - '0')
		if c < '0' || c > '9' || n > (limit-v)/10 {
			d.bad = true
			return 0
		}
		n = n*10 + v
	}
	return n
}

func (d *decoder) id() uint64 {
	id := d.integer("id = ", maxNextID)
	d.bad = d.bad || !validID(id)
	return id
}

// token reads what appendToken writes; 0 if there is none.
func (d *decoder) token() uint64 {
	if !d.lit("token = \"") {
		return 0
	}
	n := d.number(d.until('"'), math.MaxUint64)
	d.bad = d.bad || n == 0
	d.must("\n")
	return n
}

func (d *decoder) mode() dlm.Mode {
	d.must("mode = \"")
	m, ok := modeOf(d.until('"'))
	d.bad = d.bad || !ok
	d.must("\n")
	return m
}

// word reads one of a few names, and returns its place among them.
func (d *decoder) word(key string, names []string) uint8 {
	d.must(key)
	w := d.until('"')
	d.must("\n")
	for i, n := range names {
		if n != "" && string(w) == n {
			return uint8(i)
		}
	}
	d.bad = true
	return 0
}

// time reads a time of RFC 3339, as in TOML: in UTC, with as many digits of a second as it needs.
func (d *decoder) time(key string) (t time.Time) {
	d.must(key)
	v := d.until('\n')
	if d.bad {
		return t
	}
	d.bad = !timeShaped(v) || t.UnmarshalText(v) != nil || !validTime(t)
	return t
}

// timeShaped reports whether v looks like a time that the encoder has written. time.UnmarshalText takes
// other spellings as well: a comma, an hour of one digit, more than nine digits of a second.
func timeShaped(v []byte) bool {
	const shape = "0000-00-00T00:00:00.000000000"
	const whole = len("0000-00-00T00:00:00")
	n := len(v) - 1
	if n < whole || n > len(shape) || v[n] != 'Z' || n > whole && v[n-1] == '0' {
		return false
	}
	for i, c := range v[:n] {
		if c != shape[i] && (shape[i] != '0' || c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// str consumes a string in either form.
func (d *decoder) str(k key) (s string) {
	switch {
	case d.lit(k.text):
		v, inText := d.quoted()
		if inText && d.borrow {
			s = unsafe.String(unsafe.SliceData(v), len(v))
		} else {
			s = string(v)
		}
		d.bad = d.bad || !readable(s)
	case d.lit(k.hex):
		digits := d.until('"')
		v, err := hex.AppendDecode(d.scratch[:0], digits)
		d.scratch, s = v, string(v)
		d.bad = d.bad || err != nil || bytes.ContainsAny(digits, "ABCDEF") || readable(s)
	default:
		d.bad = true
	}
	d.must("\n")
	return s
}

// quoted consumes the rest of a TOML basic string with its closing quote. The only escapes are the
// two that the encoder writes. inText says that the result is a part of the text.
func (d *decoder) quoted() (s []byte, inText bool) {
	if d.bad {
		return nil, false
	}
	if i := bytes.IndexByte(d.rest, '"'); i >= 0 && bytes.IndexByte(d.rest[:i], '\\') < 0 {
		v := d.rest[:i]
		d.rest = d.rest[i+1:]
		return v, true
	}
	v := d.scratch[:0]
	for i := 0; i < len(d.rest); i++ {
		c := d.rest[i]
		switch c {
		case '"':
			d.rest, d.scratch = d.rest[i+1:], v
			return v, false
		case '\n':
			d.bad = true
			return nil, false
		case '\\':
			if i++; i == len(d.rest) {
				d.short, d.bad = true, true
				return nil, false
			}
			if c = d.rest[i]; c != '"' && c != '\\' {
				d.bad = true
				return nil, false
			}
		}
		v = append(v, c)
	}
	d.short, d.bad = true, true
	return nil, false
}

// end consumes the check line, which sealed has verified, and expects nothing behind it.
func (d *decoder) end() {
	d.must(checkKey)
	for i := 0; i < 8 && !d.bad; i++ {
		d.hexDigit()
	}
	d.must("\"\n")
	d.bad = d.bad || len(d.rest) > 0
}

func (d *decoder) hexDigit() {
	if len(d.rest) == 0 {
		d.short, d.bad = true, true
		return
	}
	c := d.rest[0]
	if c < '0' || c > '9' && c < 'a' || c > 'f' {
		d.bad = true
		return
	}
	d.rest = d.rest[1:]
}
