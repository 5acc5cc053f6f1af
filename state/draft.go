package state

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// spareSize is how much room is kept for the next file, in bytes, in a file of
// its own. With it a state file that has filled its file system can be written
// anew, smaller, once little enough of it is of use.
const spareSize = 32 << 10

// draft is a file that is to become the state file. It is made from the spare
// file if there is one.
type draft struct {
	fd      *os.File
	name    string
	size    int64 // of what is in it
	alloc   int64 // with its padding
	isSpare bool
}

// newDraft begins a file. On an error nothing is left of it.
func (f *File) newDraft() (*draft, error) {
	if f.spare != nil {
		id, err := identify(f.spare)
		if got, e := f.dir.look(spareName); err == nil && e == nil && got.id == id {
			d := &draft{fd: f.spare, name: spareName, isSpare: true}
			f.spare = nil
			return d, nil
		}
		f.spare.Close() // somebody has removed or replaced it
		f.spare = nil
	}
	fd, err := f.dir.create(temporaryName)
	if err != nil {
		return nil, err
	}
	return &draft{fd: fd, name: temporaryName}, nil
}

// write fills a draft with the header h and the contents c.
func (d *draft) write(h Header, c *Contents) (err error) {
	d.size, err = writeContents(io.NewOffsetWriter(d.fd, 0), h, c)
	return err
}

// pad gives a draft its padding: room bytes, and some more if they are to be
// had.
func (d *draft) pad(room int64) error {
	to := d.size + room
	from := max(d.size, d.alloc)
	err := writePadding(d.fd, from, to+growth(d.size))
	if err == nil {
		to += growth(d.size)
	} else {
		err = writePadding(d.fd, from, to)
	}
	if err == nil {
		err = d.fd.Truncate(max(from, to))
	}
	if err == nil {
		d.alloc = max(from, to)
	}
	return err
}

// abandon gives a draft up. One that was the spare file is that again: it may have
// been cut short, and then not all of it would be there.
func (f *File) abandon(d *draft, err error) error {
	if d.isSpare && f.spare == nil {
		f.fillSpare(d.fd)
		return err
	}
	d.fd.Close()
	f.dir.remove(d.name)
	return err
}

// install gives a complete draft the name of the state file and goes on with
// it. The old file, if there was one, is returned for the caller to close: that
// frees all its pages, which takes milliseconds. On an error the old one stays
// in use.
func (f *File) install(d *draft) (old *os.File, err error) {
	id, err := identify(d.fd)
	if err == nil {
		err = f.dir.root.Rename(d.name, stateName)
	}
	if err != nil {
		return nil, f.abandon(d, err)
	}
	old = f.fd
	f.fd, f.id, f.size, f.alloc, f.dirtyTo = d.fd, id, d.size, d.alloc, 0
	f.written, f.suspect = time.Now(), false
	return old, nil
}

// makeSpare makes the spare file, if there is none. That it can't be made is
// nobody's trouble now.
func (f *File) makeSpare() {
	if f.spare != nil {
		return
	}
	if fd, err := f.dir.create(spareName); err == nil {
		f.fillSpare(fd)
	}
}

// openSpare takes the spare file of an earlier process. What is in it does not
// matter, but it must be there.
func (f *File) openSpare() {
	if fd, err := f.dir.openRegular(spareName, os.O_RDWR); err == nil {
		f.fillSpare(fd)
	}
}

func (f *File) fillSpare(fd *os.File) {
	err := writePadding(fd, 0, spareSize)
	if err == nil {
		err = fd.Truncate(spareSize)
	}
	if err == nil {
		f.spare = fd
		return
	}
	fd.Close()
	f.dir.remove(spareName)
}

func identify(fd *os.File) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(fd.Fd()), &st); err != nil {
		return fileID{}, fmt.Errorf("fstat: %w", err)
	}
	return fileID{st.Dev, st.Ino}, nil
}
