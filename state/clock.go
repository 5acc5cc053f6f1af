package state

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// clockName is the file that holds the epoch of the fencing tokens' clock: the time of the boot by
// that clock. It is a file of its own because it belongs to no record, and works with a map of any
// format.
const (
	clockName          = "clock.toml"
	temporaryClockName = "clock.toml.new"
	clockBanner        = "# When this boot began, by the clock of the fencing tokens of dlmlockd, in\n" +
		"# microseconds since 1970. docs/state-file.md says more.\n"
	maxClockFile = 4096 // bytes
)

// errClock says that the file is not as NoteEpoch wrote it.
var errClock = errors.New("its text does not match its check")

// appendClock appends the text of the file.
func appendClock(b []byte, bootID string, epoch int64) []byte {
	start := len(b)
	b = append(b, clockBanner...)
	b = appendString(b, keyBootID, bootID)
	b = appendInt(b, "epoch = ", uint64(epoch))
	return appendCheck(b, start)
}

// Epoch returns the epoch that NoteEpoch has saved in this boot, or 0 if there is none. A file that
// can't be read or is damaged is an error: its epoch is lost, and only the wall clock is left.
func (f *File) Epoch() (int64, error) {
	path := filepath.Join(f.dir.path, clockName)
	fd, err := f.dir.openRegular(clockName, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer fd.Close()
	text, err := io.ReadAll(io.LimitReader(fd, maxClockFile))
	if err != nil {
		return 0, &Error{Op: "load", Path: path, Err: err}
	}
	_, number, _ := bytes.Cut(text, []byte("\nepoch = "))
	number, _, _ = bytes.Cut(number, []byte("\n"))
	epoch, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil || epoch < 0 {
		return 0, &Error{Op: "load", Path: path, Err: errClock}
	}
	// Writing it again is the whole parser: any other text with this number is damage.
	if bytes.Equal(text, appendClock(nil, f.header.BootID, epoch)) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.epoch = epoch
		return epoch, nil
	}
	// A sound file of an earlier boot is no damage, and its epoch of no use.
	if !bytes.HasPrefix(text, []byte(clockBanner)) ||
		bytes.Contains(text, []byte("\nboot-id = \""+f.header.BootID+"\"\n")) {
		return 0, &Error{Op: "load", Path: path, Err: errClock}
	}
	return 0, nil // it is of another boot
}

// NoteEpoch saves the epoch for the next start in this boot. It replaces the file atomically, so a
// crash leaves the old file or the new one.
func (f *File) NoteEpoch(epoch int64) error {
	if epoch < 0 {
		path := filepath.Join(f.dir.path, clockName)
		return &Error{Op: "write", Path: path, Err: fmt.Errorf("%w: epoch %d", ErrRecord, epoch)}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch = epoch
	return f.writeEpoch()
}

// writeEpoch writes the file with the epoch. It is not synchronised with the disk
// (docs/decisions/no-fsync.md): a crash of the host ends the locks and the boot that it counts for.
func (f *File) writeEpoch() error {
	path := filepath.Join(f.dir.path, clockName)
	f.dir.root.Remove(temporaryClockName)
	fd, err := f.dir.root.OpenFile(temporaryClockName, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return &WriteError{"create", path, err}
	}
	_, err = fd.Write(appendClock(nil, f.header.BootID, f.epoch))
	err = errors.Join(err, fd.Close())
	if err == nil {
		err = f.dir.root.Rename(temporaryClockName, clockName)
	}
	if err != nil {
		f.dir.root.Remove(temporaryClockName)
		return &WriteError{"write", path, err}
	}
	return nil
}
