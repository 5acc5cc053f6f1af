package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Holder is what the service keeps in the lock value block of a resource: who
// holds it in PW or EX, and the fencing token. A node reads it with a null
// lock, without contending.
//
// The 32 bytes, integers big-endian:
//
//	 0  2  magic "DL"
//	 2  1  version, 2
//	 3  1  mode of the holder, 0xff: nobody holds it in PW or EX
//	 4  4  node of the holder, 0: nobody
//	 8  8  fencing token
//	16  4  hash of the owner (OwnerHash), 0: none
//	20  8  who, for people: the first bytes of the label or the owner, zeros after
//	28  4  CRC-32C of the 28 bytes before
//
// A block without the magic or with another check is somebody else's or from
// before the first grant, and says nothing.
type Holder struct {
	Node  uint32 // 0: nobody holds it in PW or EX
	Mode  dlm.Mode
	Token uint64
	Owner uint32 // its OwnerHash
	Who   string // at most 8 bytes of UTF-8
}

const (
	holderMagic   = 0x444c // "DL"
	holderVersion = 2
	holderWhoLen  = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns the value block that publishes h.
func (h Holder) Encode() dlm.Value {
	var v dlm.Value
	binary.BigEndian.PutUint16(v[0:], holderMagic)
	v[2] = holderVersion
	v[3] = byte(h.Mode)
	binary.BigEndian.PutUint32(v[4:], h.Node)
	binary.BigEndian.PutUint64(v[8:], h.Token)
	binary.BigEndian.PutUint32(v[16:], h.Owner)
	copy(v[20:28], cutWho(h.Who))
	binary.BigEndian.PutUint32(v[28:], crc32.Checksum(v[:28], castagnoli))
	return v
}

// DecodeHolder reads what encode wrote; ok is false for a block that does not
// hold it.
func DecodeHolder(v dlm.Value) (h Holder, ok bool) {
	if binary.BigEndian.Uint16(v[0:]) != holderMagic || v[2] != holderVersion ||
		binary.BigEndian.Uint32(v[28:]) != crc32.Checksum(v[:28], castagnoli) {
		return Holder{}, false
	}
	h = Holder{
		Mode:  dlm.Mode(int8(v[3])),
		Node:  binary.BigEndian.Uint32(v[4:]),
		Token: binary.BigEndian.Uint64(v[8:]),
		Owner: binary.BigEndian.Uint32(v[16:]),
		Who:   strings.TrimRight(string(v[20:28]), "\x00"),
	}
	if h.Mode != dlm.None && !h.Mode.Valid() || h.Who != cutWho(h.Who) {
		return Holder{}, false
	}
	return h, true
}

// OwnerHash is what the value block says of an owner: the first four bytes of
// the SHA-256 of its uid (four bytes, big-endian) and its name. Who knows an
// owner can tell whether it is the one that holds the resource on another node;
// the name itself is not shown to all nodes.
func OwnerHash(uid uint32, owner string) uint32 {
	if owner == "" {
		return 0
	}
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uid), owner...))
	return binary.BigEndian.Uint32(sum[:])
}

// cutWho shortens text to what fits, at a character, without anything that
// could not be printed on the other node.
func cutWho(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		if b.Len()+utf8.RuneLen(r) > holderWhoLen {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// HeldBy is the lock that is in the way of a refused call. Of a lock of this instance
// all is known; of another node's only what its Holder tells, so that UID and Owner are
// zero, and Label is its Who.
type HeldBy struct {
	Node  uint32 // 0: a lock of this instance
	Mode  dlm.Mode
	UID   uint32
	Label string
	Owner string
}

// By is the lock that the value block tells of, or nil.
func (h Holder) By() *HeldBy {
	if h.Node == 0 {
		return nil
	}
	return &HeldBy{Node: h.Node, Mode: h.Mode, Label: h.Who}
}

// String names the holder for an error message; nil has no name.
func (h *HeldBy) String() string {
	if h == nil {
		return ""
	}
	where := fmt.Sprintf("this node (%s, uid %d", h.Mode, h.UID)
	if h.Node != 0 {
		where = fmt.Sprintf("node %d (%s", h.Node, h.Mode)
	}
	if who := cmp.Or(h.Label, h.Owner); who != "" {
		where += fmt.Sprintf(", %q", who)
	}
	return where + ")"
}
