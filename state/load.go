package state

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"strings"
)

// damageSkip is how many IDs are skipped after damage.
const damageSkip = 1 << 32

// maxNextID is the largest integer that every TOML parser must support.
const maxNextID = math.MaxInt64

// readSize is how many bytes of the file are read at a time.
const readSize = 256 << 10

// scanner cuts a file into chunks, each of which ends with the next check line. A line that begins
// like a check line is one, whatever follows, because strings contain no line breaks.
type scanner struct {
	r    io.ReaderAt
	size int64 // where the file ends for the scanner
	read int64 // how far the file has been read
	buf  []byte
	from int // where in buf the next chunk begins
}

// next returns the next chunk, which is valid until the following call, and its offset in the file.
// whole is false for the last chunk, which is the rest of the file after its last check line and
// may be empty.
func (s *scanner) next() (text []byte, offset int64, whole bool, err error) {
	seen := 0 // no check line of the chunk begins before this offset
	for {
		chunk := s.buf[s.from:]
		offset = s.read - int64(len(chunk))
		var n int
		if n, seen = chunkLen(chunk, seen); n > 0 {
			s.from += n
			return chunk[:n], offset, true, nil
		}
		if s.read == s.size {
			s.from = len(s.buf)
			return chunk, offset, false, nil
		}
		if err := s.fill(); err != nil {
			return nil, 0, false, err
		}
	}
}

// chunkLen returns the length of the first chunk in b, or 0 if b does not hold all of it. It
// searches from the offset seen on, and returns the offset from which to search when b has grown.
func chunkLen(b []byte, seen int) (n, searched int) {
	const lineKey = "\n" + checkKey
	i := bytes.Index(b[seen:], []byte(lineKey))
	if i < 0 {
		return 0, max(seen, len(b)-len(lineKey)+1)
	}
	seen += i
	value := seen + len(lineKey)
	end := bytes.IndexByte(b[value:], '\n')
	if end < 0 {
		return 0, seen
	}
	return value + end + 1, seen
}

// fill reads more of the file, behind the part of the buffer that is still needed.
func (s *scanner) fill() error {
	keep := copy(s.buf, s.buf[s.from:])
	s.from = 0
	n := int(min(readSize, s.size-s.read))
	s.buf = slices.Grow(s.buf[:keep], n)[:keep+n]
	got, err := s.r.ReadAt(s.buf[keep:], s.read)
	if got < n {
		s.buf = s.buf[:keep+got]
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	s.read += int64(n)
	return nil
}

// loaded is a file as it was read.
type loaded struct {
	Contents
	size    int64    // bytes read
	text    int64    // bytes without the padding
	end     int64    // where the last whole record ends; text if not Torn
	foreign int      // the format, if it is one that this package does not know
	found   int      // how many whole records there are
	use     usage    // for when to compact
	packed  []packed // the locks once more; empty where a mark has changed one
}

// load reads the first size bytes of r. Damage is part of the result; an error means that r could
// not be read. A start has nothing else to do, and may use all processors (hurry).
func load(r io.ReaderAt, size int64, hurry bool) (*loaded, error) {
	end, err := trimmed(r, size)
	if err != nil {
		return nil, err
	}
	l := &loader{scan: scanner{r: r, size: end}, spaces: map[string]Lockspace{},
		workers: newWorkers(size, hurry)}
	defer l.workers.stop()
	l.out.size, l.out.text = size, end
	if end < size {
		l.out.text++ // the line break that ends the last line
	}
	l.out.end = l.out.text
	if err := l.read(); err != nil || l.out.foreign != 0 {
		return &l.out, err
	}
	l.fold()
	return &l.out, nil
}

// read reads the whole file, or as much as it takes to see that its format is unknown.
func (l *loader) read() error {
	b := l.workers.get()
	for {
		text, offset, whole, err := l.scan.next()
		if err != nil {
			return err
		}
		if whole {
			if len(b.pieces) == 0 {
				b.offset = offset
			}
			b.text, b.pieces = append(b.text, text...), append(b.pieces, piece{size: len(text)})
			if len(b.text) < portionSize {
				continue
			}
		}
		// The header comes first, so that of a file in an unknown format nothing else is looked at.
		l.workers.put(b)
		if l.portions(!whole); l.out.foreign != 0 {
			return nil
		}
		if !whole {
			l.last(text, offset)
			return nil
		}
		b = l.workers.get()
	}
}

// portions folds the portions that are decoded: all of them, or those that others must wait for.
func (l *loader) portions(all bool) {
	for b := l.workers.next(all); b != nil && l.out.foreign == 0; b = l.workers.next(all) {
		l.portion(b)
		l.workers.free(b)
	}
}

// portion folds the records of one portion, in their order.
func (l *loader) portion(b *portion) {
	locks, marks, spaces := b.locks, b.marks, b.spaces
	at := 0
	for _, p := range b.pieces {
		switch p.kind {
		case lockRecord:
			l.lock(&locks[0].Lock, locks[0].packed, p.size-1) // without the empty line at its end
			locks = locks[1:]
		case markRecord:
			l.mark(&marks[0])
			marks = marks[1:]
		case spaceRecord:
			l.space(spaces[0])
			spaces = spaces[1:]
		default:
			l.chunk(b.text[at:at+p.size], b.offset+int64(at))
		}
		at += p.size
		if l.folded = b.offset + int64(at); l.out.foreign != 0 {
			return
		}
	}
}

// loader folds records into Contents.
type loader struct {
	// Cuts the file into chunks, each of which begins after an empty line.
	scan    scanner
	workers *workers
	dec     decoder
	again   []byte // a header as the encoder writes it
	out     loaded // the result

	// The header at the top was sound, and hasCopy that its copy was.
	hasTop, hasCopy bool
	firstLines      string // where the format is to be found

	locks  []Lock // with Gone ones
	packed []packed
	// For each lock, the number of the record that it comes from: the record "left" of a
	// lockspace ends the locks of earlier records.
	order  []int32
	folded int64 // how far the file has been folded
	// By ID, where a lock is in locks. Only the first locks are in it, as many as indexed says (find).
	index    map[uint64]int32
	indexed  int
	youngest uint64 // the largest ID of a lock so far
	spaces   map[string]Lockspace
	left     map[string]int32 // lockspace -> out.found when it was left
}

// chunk handles one chunk: a record, or damage followed by a record.
func (l *loader) chunk(text []byte, offset int64) {
	if offset == 0 {
		l.firstLines = string(text[:min(len(text), 4*len(banner))])
	}
	skip := 0
	if offset > 0 {
		skip = 1 // the empty line
	}
	ok := sealed(text[skip:])
	if !ok && skip > 0 && sealed(text) {
		skip, ok = 0, true
	}
	switch {
	case !ok:
		// If the damage is in the check line before this chunk, then the last record in the chunk
		// is sound.
		skip = bytes.LastIndex(text, []byte("\n[")) + 1
		if skip == 0 || !sealed(text[skip:]) {
			l.damaged(offset, len(text), "the check does not match")
			return
		}
		l.damaged(offset, skip, "the check does not match")
	case offset > 0 && (skip == 0 || text[0] != '\n'):
		l.damaged(offset, skip, "there is no empty line")
	}
	at := offset + int64(skip)
	if !l.record(text[skip:], at) {
		l.damaged(at, len(text)-skip, "it verifies, but dlmlockd did not write it there")
	}
}

// last handles the end of the file. The text lacks the line break of its last line if there is one,
// because that looks like padding.
func (l *loader) last(text []byte, offset int64) {
	if l.out.text > l.scan.size {
		line := text[bytes.LastIndexByte(text, '\n')+1:]
		if len(line) == checkLen-1 && bytes.HasPrefix(line, []byte(checkKey)) {
			if l.chunk(append(bytes.Clone(text), '\n'), offset); l.out.foreign != 0 {
				return
			}
			text, offset = nil, l.out.text
		}
	}
	l.tail(text, offset)
}

// tail handles what follows the last check line.
func (l *loader) tail(text []byte, offset int64) {
	switch {
	case offset == 0:
		l.firstLines = string(text[:min(len(text), 4*len(banner))])
		l.damaged(0, len(text), "there is no header")
	case len(text) == 0:
	case l.hasTop && l.hasCopy && !l.touches(offset) && text[0] == '\n' && l.dec.unfinished(text[1:]):
		if l.out.size == l.out.text {
			// A record is written over padding, so the file was cut off later.
			l.damaged(offset, len(text), "the file ends in the middle of a record, without padding")
			break
		}
		l.out.Torn, l.out.end = true, offset
	default:
		l.damaged(offset, len(text), "it is no record")
	}
	if l.hasTop && !l.hasCopy && len(l.out.Damage) == 0 {
		l.damaged(offset, 0, "the copy of the header is missing")
	}
	if !l.hasTop && !l.hasCopy {
		if f := formatOf(l.firstLines); f > format {
			l.out.foreign = f
		}
	}
}

// record handles one sealed text. It returns false if the encoder writes no such text, or if it is
// not where it belongs.
func (l *loader) record(text []byte, offset int64) bool {
	switch {
	case offset == 0:
		return l.header(text, banner, &l.hasTop)
	case bytes.HasPrefix(text, []byte(copyTable)):
		return !l.hasCopy && l.out.found == 0 && l.header(text, copyTable, &l.hasCopy)
	}
	var r decoded
	switch l.dec.verified(text, &r) {
	case lockRecord:
		l.lock(&r.lock, r.packed, len(text))
	case markRecord:
		l.mark(&r.mark)
	case spaceRecord:
		l.space(r.space)
	default:
		return false
	}
	return true
}

// header handles one of the two headers. Both must say the same.
func (l *loader) header(text []byte, top string, have *bool) bool {
	h, nextID, ok := l.dec.header(text, top)
	if !ok || h.Format < oldest {
		return false
	}
	if h.Format > format {
		l.out.foreign = h.Format
		return true
	}
	both := appendHeader(l.again[:0], h, nextID)
	l.again = both
	same := bytes.HasPrefix(both, text)
	if top == copyTable {
		same = bytes.HasSuffix(both, text)
	}
	if !same || l.hasTop && (h != l.out.Header || nextID != l.out.NextID) {
		return false
	}
	*have = true
	l.out.Header = h
	l.out.NextID = max(l.out.NextID, nextID)
	return true
}

// lock takes a record of a lock, which has size bytes; a later one of the same ID replaces an earlier
// one.
func (l *loader) lock(lk *Lock, p packed, size int) {
	l.out.found++
	l.out.use.lock(size)
	l.out.NextID = max(l.out.NextID, lk.ID+1)
	i, ok := l.find(lk.ID)
	if !ok {
		l.grow()
		i = int32(len(l.locks))
		l.youngest = max(l.youngest, lk.ID)
		l.locks, l.order, l.packed = append(l.locks, Lock{}), append(l.order, 0), append(l.packed, packed{})
	}
	l.locks[i], l.order[i], l.packed[i] = *lk, int32(l.out.found), p
}

// find returns where the lock with an ID is in locks. Most records are of a younger lock than all
// before, and many marks follow the record that they change. Only for other records it makes an index.
func (l *loader) find(id uint64) (i int32, ok bool) {
	last := len(l.locks) - 1
	switch {
	case id > l.youngest:
		return 0, false
	case l.locks[last].ID == id:
		return int32(last), true
	}
	if l.index == nil {
		l.index = make(map[uint64]int32, cap(l.locks))
	}
	for ; l.indexed <= last; l.indexed++ {
		l.index[l.locks[l.indexed].ID] = int32(l.indexed)
	}
	i, ok = l.index[id]
	return i, ok
}

// grow makes room for as many locks as there will be if the rest of the file is like the part that
// was read. Growing step by step would copy all of them many times.
func (l *loader) grow() {
	n := len(l.locks)
	if n < cap(l.locks) {
		return
	}
	more := 64
	if n > 0 {
		more = max(more, int(float64(n)*float64(l.scan.size)/float64(max(l.folded, 1))*1.02)-n)
	}
	l.locks, l.order, l.packed = slices.Grow(l.locks, more), slices.Grow(l.order, more), slices.Grow(l.packed, more)
}

// mark applies a mark. A mark of an unknown lock changes nothing: the lock is gone, or its record
// was damaged.
func (l *loader) mark(m *Mark) {
	l.out.found++
	l.out.NextID = max(l.out.NextID, m.ID+1)
	i, ok := l.find(m.ID)
	if !ok {
		return
	}
	lk := &l.locks[i]
	if lk.Phase == Gone {
		return
	}
	if m.Phase != 0 {
		lk.Phase = m.Phase
	}
	if m.HasMode || m.Session != "" {
		l.packed[i] = packed{}
	}
	if m.HasMode {
		lk.Mode, lk.Token = m.Mode, m.Token
	}
	if m.Session != "" {
		lk.Session, lk.SessionBus = m.Session, m.SessionBus
	}
}

// space takes a record of a lockspace. Left ends its locks as well, but those are only dropped
// at the end, because a loss that was recorded stays.
func (l *loader) space(s Lockspace) {
	l.out.found++
	if s.Phase != Left {
		l.spaces[s.Name] = s
		return
	}
	delete(l.spaces, s.Name)
	if l.left == nil {
		l.left = map[string]int32{}
	}
	l.left[s.Name] = int32(l.out.found)
}

// damaged notes that a piece of the file can't be used. Adjacent pieces are noted as one.
func (l *loader) damaged(offset int64, length int, reason string) {
	if l.touches(offset) {
		l.out.Damage[len(l.out.Damage)-1].Length += int64(length)
		return
	}
	l.out.Damage = append(l.out.Damage, Damage{offset, int64(length), reason})
}

// touches reports whether the piece that ends at offset is damaged.
func (l *loader) touches(offset int64) bool {
	n := len(l.out.Damage)
	return n > 0 && l.out.Damage[n-1].Offset+l.out.Damage[n-1].Length == offset
}

// fold drops the locks that have ended and sorts the rest.
func (l *loader) fold() {
	n := 0
	for i := range l.locks {
		lk := &l.locks[i]
		if lk.Phase == Gone || lk.Phase != Lost && l.order[i] <= l.left[lk.Lockspace] {
			continue
		}
		l.locks[n], l.packed[n] = *lk, l.packed[i]
		n++
	}
	l.out.use.settle(n, len(l.spaces))
	clear(l.locks[n:])
	clear(l.packed[n:])
	l.out.Locks, l.out.packed = l.locks[:n], l.packed[:n]
	if by := byID(l.out); !sort.IsSorted(by) {
		sort.Sort(by)
	}
	for _, s := range l.spaces {
		l.out.Spaces = append(l.out.Spaces, s)
	}
	slices.SortFunc(l.out.Spaces, func(a, b Lockspace) int { return strings.Compare(a.Name, b.Name) })
	l.out.NextID = max(l.out.NextID, 1)
	if len(l.out.Damage) > 0 {
		l.out.NextID = min(l.out.NextID, maxNextID-damageSkip) + damageSkip
	}
}

// byID sorts the locks of a file.
type byID loaded

func (l byID) Len() int           { return len(l.Locks) }
func (l byID) Less(i, j int) bool { return l.Locks[i].ID < l.Locks[j].ID }
func (l byID) Swap(i, j int) {
	l.Locks[i], l.Locks[j] = l.Locks[j], l.Locks[i]
	l.packed[i], l.packed[j] = l.packed[j], l.packed[i]
}

// formatOf finds the format in the first lines of a file, or returns 0. In every format a file
// begins with comments followed by the line format = N, so a daemon of any version can tell another
// format from damage.
func formatOf(lines string) int {
	for line := range strings.Lines(lines) {
		if strings.HasPrefix(line, "#") || line == "\n" {
			continue
		}
		var n int
		if _, err := fmt.Sscanf(line, "format = %d\n", &n); err != nil {
			return 0
		}
		return n
	}
	return 0
}
