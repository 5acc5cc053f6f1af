package cluster

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/dlmlock/dlmlockd/dlm"
)

// resource is one entry of the table NAME_all (print_format3 and print_format4 in
// fs/dlm/debug_fs.c).
type resource struct {
	name     string
	master   int32 // 0: this node, -1: being looked up, else the node
	hasValue bool
	value    dlm.Value
	locks    []entry // in queue order: granted, converting, waiting
}

// entry is one lock of a resource.
type entry struct {
	id        dlm.LockID // of this node; for a lock of another node, that of the master's copy
	node      uint32     // on the master the lock's node, 0 for its own; on other nodes the master
	pid       int        // the thread that requested it
	flags     dlm.Flags
	internal  uint32
	status    uint8
	granted   dlm.Mode
	requested dlm.Mode
}

// Values of entry.status (DLM_LKSTS_*).
const (
	waiting    = 1
	granted    = 2
	converting = 3
)

// Kernels before 6.4 show all internal flags of a lock, and every lock of a process has flagUser.
// Later ones show neither of these two.
const (
	flagUser   = 0x1 // DLM_IFL_USER
	flagOrphan = 0x2 // DLM_IFL_ORPHAN
)

var errTable = errors.New("the table has a form that this program does not know")

// readTable reads the table and calls each for every resource whose name want accepts, until each
// returns false. It reuses the resource for the next call. Memory is bounded by the largest
// resource that is wanted.
func readTable(in io.Reader, want func(name []byte) bool, each func(*resource) bool) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	var r resource
	wanted := false
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			if wanted {
				each(&r) // a resource is complete only when the next one begins, or here
			}
			return nil
		}
		if err != nil && err != io.EOF { // including ErrBufferFull: no line of the kernel is that long
			return err
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		kind, rest, _ := bytes.Cut(line, []byte(" "))
		switch {
		case string(kind) == "rsb" && !bytes.HasPrefix(rest, []byte("ptr ")): // "rsb ptr ..." is the heading
			if wanted && !each(&r) {
				return nil
			}
			if wanted, err = r.begin(rest, want); err != nil {
				return err
			}
		case !wanted:
		case string(kind) == "lvb":
			err = r.addValue(rest)
		case string(kind) == "lkb":
			err = r.addLock(rest)
		}
		if err != nil && err != io.EOF {
			return err
		}
	}
}

// begin parses what follows "rsb": address, node, first lockid, flags, three numbers about
// recovery, the length of the name, its form, the name.
func (r *resource) begin(line []byte, want func([]byte) bool) (bool, error) {
	var fields [9][]byte
	rest := line
	for i := range fields {
		var ok bool
		if fields[i], rest, ok = bytes.Cut(rest, []byte(" ")); !ok {
			return false, fmt.Errorf("%w: resource %q", errTable, line)
		}
	}
	master, err := strconv.ParseInt(string(fields[1]), 10, 32)
	length, err2 := strconv.Atoi(string(fields[7]))
	if err != nil || err2 != nil {
		return false, fmt.Errorf("%w: resource %q", errTable, line)
	}
	name, err := parseName(string(fields[8]), rest, length)
	if err != nil {
		return false, err
	}
	if !want(name) {
		return false, nil
	}
	*r = resource{name: string(name), master: int32(master), locks: r.locks[:0]}
	return true, nil
}

// parseName parses a name of the given length, which the kernel shows as it is if all of it is
// printable ASCII, and otherwise as hexadecimal numbers.
func parseName(form string, text []byte, length int) ([]byte, error) {
	name := text
	switch form {
	case "str":
	case "hex":
		var err error
		if name, err = parseHex(text); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%w: name in form %q", errTable, form)
	}
	if len(name) != length || length > dlm.MaxResourceName {
		return nil, fmt.Errorf("%w: a name of %d bytes is %q", errTable, length, name)
	}
	return name, nil
}

// parseHex parses bytes that are written as two digits each, separated by spaces.
func parseHex(text []byte) ([]byte, error) {
	b, err := hex.AppendDecode(nil, bytes.ReplaceAll(text, []byte(" "), nil))
	if err != nil {
		return nil, fmt.Errorf("%w: %q is not hexadecimal", errTable, text)
	}
	return b, nil
}

// addValue parses what follows "lvb": sequence, length, bytes.
func (r *resource) addValue(line []byte) error {
	_, rest, _ := bytes.Cut(line, []byte(" "))
	_, rest, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return fmt.Errorf("%w: value %q", errTable, line)
	}
	b, err := parseHex(rest)
	if err != nil {
		return err
	}
	if len(b) == dlm.ValueSize {
		r.hasValue, r.value = true, dlm.Value(b)
	}
	return nil
}

// addLock parses what follows "lkb": id, node, remote id, pid, xid, external flags, internal flags,
// status, granted and requested mode, and fields that this package does not use.
func (r *resource) addLock(line []byte) error {
	fields := bytes.Fields(line)
	if len(fields) < 10 {
		return fmt.Errorf("%w: lock %q", errTable, line)
	}
	p := numbers{fields: fields}
	e := entry{
		id:        dlm.LockID(p.at(0, 16)),
		node:      uint32(p.at(1, 10)),
		pid:       int(int32(p.at(3, 10))),
		flags:     dlm.Flags(p.at(5, 16)),
		internal:  uint32(p.at(6, 16)),
		status:    uint8(p.at(7, 10)),
		granted:   p.mode(8),
		requested: p.mode(9),
	}
	if p.err != nil {
		return fmt.Errorf("%w: lock %q: %w", errTable, line, p.err)
	}
	r.locks = append(r.locks, e)
	return nil
}

// numbers parses fields as numbers and keeps the first error.
type numbers struct {
	fields [][]byte
	err    error
}

// at parses field i, which fits into 32 bits with or without a sign.
func (p *numbers) at(i, base int) int64 {
	n, err := strconv.ParseInt(string(p.fields[i]), base, 64)
	if err == nil && (n < -1<<31 || n >= 1<<32) {
		err = strconv.ErrRange
	}
	if err != nil && p.err == nil {
		p.err = err
	}
	return n
}

func (p *numbers) mode(i int) dlm.Mode {
	n := p.at(i, 10)
	if (n < int64(dlm.None) || n > int64(dlm.EX)) && p.err == nil {
		p.err = strconv.ErrRange
	}
	return dlm.Mode(n)
}

// unusedRow is a row of the table NAME_toss, which lists resources on which this node has no lock but
// which it remembers, for example as the directory node that knows the master (print_format4).
type unusedRow struct {
	name []byte
	// node is the number of the master, 0 if this node is the master, or -1 if the kernel knows of no
	// master. Any request of this node for such a resource makes the kernel panic
	// (docs/kernel-bugs/09.md).
	node   int64
	master int64 // the master's number, 0: not known
}

// readUnused calls each with every row of the table until it returns false.
func readUnused(in io.Reader, each func(unusedRow) bool) error {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		rest, found := bytes.CutPrefix(lines.Bytes(), []byte("rsb "))
		if !found || bytes.HasPrefix(rest, []byte("ptr ")) {
			continue
		}
		row, err := parseUnused(rest)
		if err != nil {
			return err
		}
		if !each(row) {
			return nil
		}
	}
	return lines.Err()
}

func parseUnused(line []byte) (row unusedRow, err error) {
	var fields [9][]byte // address, node, master, directory, own node, time, flags, length, form
	rest := line
	for i := range fields {
		var found bool
		if fields[i], rest, found = bytes.Cut(rest, []byte(" ")); !found {
			return row, fmt.Errorf("%w: %q", errTable, line)
		}
	}
	length, err := strconv.Atoi(string(fields[7]))
	if err != nil {
		return row, fmt.Errorf("%w: %q", errTable, line)
	}
	if row.name, err = parseName(string(fields[8]), rest, length); err != nil {
		return row, err
	}
	var err2 error
	row.node, err = strconv.ParseInt(string(fields[1]), 10, 32)
	row.master, err2 = strconv.ParseInt(string(fields[2]), 10, 32)
	if err != nil || err2 != nil {
		return row, fmt.Errorf("%w: %q", errTable, line)
	}
	return row, nil
}

// readMaster looks a resource up in the table NAME_toss. ok reports whether it was found; master is
// 0 if it is not known.
func readMaster(in io.Reader, name string) (master uint32, ok bool, err error) {
	err = readUnused(in, func(row unusedRow) bool {
		if string(row.name) != name {
			return true
		}
		master, ok = uint32(max(row.master, 0)), true
		return false
	})
	return master, ok, err
}
