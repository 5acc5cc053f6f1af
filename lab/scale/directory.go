package scale

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// Member is a node of a lockspace.
type Member struct {
	ID uint32
	// Weight is the node's share of the directory. It is 1 unless dlm.conf(5) names masters for the
	// lockspace: then it is 0 for all other nodes.
	Weight int
}

// Members returns the nodes 1 to n with the weight that they have without a configuration.
func Members(n int) []Member {
	all := make([]Member, n)
	for i := range all {
		all[i] = Member{uint32(i + 1), 1}
	}
	return all
}

// Directory says which node knows the master of a resource.
type Directory struct {
	// array has each node as often as its weight says (make_member_array in fs/dlm/member.c).
	array []uint32
}

// NewDirectory returns the directory of a lockspace with these members.
func NewDirectory(members []Member) Directory {
	members = slices.Clone(members)
	slices.SortFunc(members, func(a, b Member) int { return int(a.ID) - int(b.ID) })
	weightless := !slices.ContainsFunc(members, func(m Member) bool { return m.Weight > 0 })
	var d Directory
	for _, m := range members {
		w := m.Weight
		if weightless {
			w = 1
		}
		d.array = append(d.array, slices.Repeat([]uint32{m.ID}, w)...)
	}
	return d
}

// Node returns the directory node of a resource (dlm_hash2nodeid in fs/dlm/dir.c). Only the upper
// half of the hash counts.
func (d Directory) Node(name string) uint32 {
	return d.array[int(hash(name)>>16)%len(d.array)]
}

// hash is the kernel's jhash with the initial value 0, as on a little-endian machine
// (include/linux/jhash.h; the algorithm is Bob Jenkins's lookup3).
func hash(name string) uint32 {
	a := 0xdeadbeef + uint32(len(name))
	b, c := a, a
	for len(name) > 12 {
		a, b, c = add(a, b, c, name[:12])
		a, b, c = mix(a, b, c)
		name = name[12:]
	}
	if name == "" {
		return c
	}
	return final(add(a, b, c, name))
}

// add adds up to twelve bytes, as three words.
func add(a, b, c uint32, s string) (uint32, uint32, uint32) {
	var w [12]byte
	copy(w[:], s)
	word := binary.LittleEndian.Uint32
	return a + word(w[0:]), b + word(w[4:]), c + word(w[8:])
}

func mix(a, b, c uint32) (uint32, uint32, uint32) {
	for _, r := range [2][3]int{{4, 6, 8}, {16, 19, 4}} {
		a = (a - c) ^ bits.RotateLeft32(c, r[0])
		c += b
		b = (b - a) ^ bits.RotateLeft32(a, r[1])
		a += c
		c = (c - b) ^ bits.RotateLeft32(b, r[2])
		b += a
	}
	return a, b, c
}

func final(a, b, c uint32) uint32 {
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	return (c ^ b) - bits.RotateLeft32(b, 24)
}
