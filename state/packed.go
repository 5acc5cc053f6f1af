package state

import (
	"encoding/binary"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// packed is a record of a lock without its number and phase, in a third of the memory that a Lock
// takes, and with one pointer for the garbage collector to follow where a Lock has nine. The texts
// of the record are its end, so the strings of a Lock that was loaded can be parts of it, and are
// in memory only once.
type packed struct {
	*names
	// Numbers, as varints: lockid, mode, lifetime, token, uid, pid, pid-start, seconds and nanoseconds
	// of since, and the lengths of the texts, which follow.
	text string
}

// names are what many locks have in common. Locks that follow each other share them.
type names struct{ lockspace, session, bus string }

// What of a lock is in names.
func namesOf(l *Lock) names { return names{l.Lockspace, l.Session, l.SessionBus} }

// packer makes packed records, and keeps what the next one may share.
type packer struct {
	buf  []byte
	last *names
}

// pack packs l. The result has no memory in common with l.
func (p *packer) pack(l *Lock) packed {
	if n := namesOf(l); p.last == nil || *p.last != n {
		p.last = &names{strings.Clone(n.lockspace), strings.Clone(n.session), strings.Clone(n.bus)}
	}
	seconds, nanoseconds := int64(0), uint64(noTime)
	if !l.Since.IsZero() {
		seconds, nanoseconds = l.Since.Unix(), uint64(l.Since.Nanosecond())
	}
	b := binary.AppendUvarint(p.buf[:0], uint64(l.LockID))
	b = append(b, byte(l.Mode), byte(l.Lifetime))
	b = binary.AppendUvarint(b, l.Token)
	b = binary.AppendUvarint(b, uint64(l.UID))
	b = binary.AppendUvarint(b, uint64(l.PID))
	b = binary.AppendUvarint(b, l.PIDStart)
	b = binary.AppendVarint(b, seconds)
	b = binary.AppendUvarint(b, nanoseconds)
	owner := uint64(0) // no owner is not the same as an empty one
	if l.HasOwner {
		owner = uint64(len(l.Owner)) + 1
	}
	b = binary.AppendUvarint(b, uint64(len(l.Resource)))
	b = binary.AppendUvarint(b, owner)
	for _, s := range [...]string{l.Label, l.OnLost, l.OnLostData, l.Reason} {
		b = binary.AppendUvarint(b, uint64(len(s)))
	}
	b = append(b, l.Resource...)
	if l.HasOwner {
		b = append(b, l.Owner...)
	}
	b = append(append(append(append(b, l.Label...), l.OnLost...), l.OnLostData...), l.Reason...)
	p.buf = b
	return packed{p.last, string(b)}
}

// noTime in place of the nanoseconds says that there is no time.
const noTime = 1e9

// unpack is the inverse of pack. The strings are parts of the packed record.
func (p packed) unpack() (l Lock) {
	r := unpacker{p.text}
	l.LockID = dlm.LockID(r.number())
	l.Mode, l.Lifetime = dlm.Mode(r.rest[0]), Lifetime(r.rest[1])
	r.rest = r.rest[2:]
	l.Token, l.UID, l.PID, l.PIDStart = r.number(), uint32(r.number()), uint32(r.number()), r.number()
	seconds := r.number()
	if ns := r.number(); ns != noTime {
		l.Since = time.Unix(int64(seconds>>1)^-int64(seconds&1), int64(ns)).UTC() // zigzag, as AppendVarint writes it
	}
	resource, owner, label := r.number(), r.number(), r.number()
	onLost, data, reason := r.number(), r.number(), r.number()
	l.Resource = r.text(resource)
	if l.HasOwner = owner > 0; l.HasOwner {
		l.Owner = r.text(owner - 1)
	}
	l.Label, l.OnLost, l.OnLostData, l.Reason = r.text(label), r.text(onLost), r.text(data), r.text(reason)
	l.Lockspace, l.Session, l.SessionBus = p.lockspace, p.session, p.bus
	return l
}

// unpacker reads a packed record, which is certain to be whole.
type unpacker struct{ rest string }

func (r *unpacker) number() (v uint64) {
	for i := 0; ; i++ {
		c := r.rest[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.rest = r.rest[i+1:]
			return v
		}
	}
}

func (r *unpacker) text(n uint64) string {
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}
