package local

import (
	"math/bits"

	"github.com/dlmlock/dlmlockd/dlm"
)

// maxLockID is the largest lockid that is assigned or restored. The kernel is bounded only by its
// memory; here the limit bounds how large a damaged record can make the bitmaps (2 MiB).
const maxLockID dlm.LockID = 1<<24 - 1

// idset assigns the lowest free lockid, as the kernel's idr does (_create_lkb in fs/dlm/lock.c). It
// is a tree of bitmaps of 64 branches: a bit of level 0 says that the lockid is used, a bit of the
// level above says that a whole word below is used. Every operation touches at most four words.
type idset struct {
	level [4][]uint64
}

// take reserves the lowest free lockid; false if there is none.
func (s *idset) take() (dlm.LockID, bool) {
	if s.level[0] == nil {
		s.set(0) // zero is no lock
	}
	at := 0
	for k := len(s.level) - 1; k >= 0; k-- {
		var word uint64
		if at < len(s.level[k]) {
			word = s.level[k][at]
		}
		if word == ^uint64(0) {
			return 0, false
		}
		at = at<<6 | bits.TrailingZeros64(^word)
	}
	s.set(at)
	return dlm.LockID(at), true
}

// reserve reserves a given lockid; it returns false if that is used or out of range.
func (s *idset) reserve(id dlm.LockID) bool {
	if s.level[0] == nil {
		s.set(0)
	}
	if id > maxLockID || s.used(id) {
		return false
	}
	s.set(int(id))
	return true
}

// release gives a used lockid back.
func (s *idset) release(id dlm.LockID) {
	at := int(id)
	for k := range s.level {
		word := &s.level[k][at>>6]
		full := *word == ^uint64(0)
		*word &^= 1 << (at & 63)
		if !full { // then the bit above is not set
			return
		}
		at >>= 6
	}
}

func (s *idset) used(id dlm.LockID) bool {
	w := int(id >> 6)
	return w < len(s.level[0]) && s.level[0][w]&(1<<(id&63)) != 0
}

func (s *idset) set(at int) {
	for k := range s.level {
		w := at >> 6
		if missing := w + 1 - len(s.level[k]); missing > 0 {
			s.level[k] = append(s.level[k], make([]uint64, missing)...)
		}
		s.level[k][w] |= 1 << (at & 63)
		if s.level[k][w] != ^uint64(0) {
			return
		}
		at = w
	}
}
