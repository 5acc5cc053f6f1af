package state

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// spareSize is how much room is kept for the next file, in bytes, in a file of its own. With it a
// state file that has filled its file system can be written again, smaller, once few enough of its
// records are still of use.
const spareSize = 32 << 10

// draft is a file that is to become the state file. It uses the spare file if there is one.
type draft struct {
	fd   *os.File
	name string
	// How many bytes of records it has.
	size int64
	// The same with the padding: the length of the file.
	alloc int64
	// It was the spare file, so it needs no room of the file system.
	isSpare bool
}

// newDraft begins a file. After an error it leaves nothing behind.
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

// pad gives a draft its padding: room bytes, and some more if there is space.
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

// abandon discards a draft. If it was the spare file, it becomes that again, and is filled again,
// because it may have been cut short.
func (f *File) abandon(d *draft, err error) error {
	if d.isSpare && f.spare == nil {
		f.fillSpare(d.fd)
		return err
	}
	d.fd.Close()
	f.dir.remove(d.name)
	return err
}

// install gives a complete draft the name of the state file and goes on with it. It returns the old
// file, if there was one, for the caller to close: that frees all its pages, which takes
// milliseconds. On an error the old file stays in use.
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

// makeSpare creates the spare file if there is none. A failure does no harm now and is not
// reported.
func (f *File) makeSpare() {
	if f.spare != nil {
		return
	}
	if fd, err := f.dir.create(spareName); err == nil {
		f.fillSpare(fd)
	}
}

// openSpare takes over the spare file of an earlier process. Its contents don't matter, but its
// blocks must exist.
func (f *File) openSpare() {
	if fd, err := f.dir.openRegular(spareName, os.O_RDWR); err == nil {
		f.fillSpare(fd)
	}
}

// fillSpare makes fd the spare file. It is written, not only made longer: a file of holes
// would find no room when it is needed.
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

// identify tells files apart by device and inode, whatever their names are.
func identify(fd *os.File) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(fd.Fd()), &st); err != nil {
		return fileID{}, fmt.Errorf("fstat: %w", err)
	}
	return fileID{st.Dev, st.Ino}, nil
}
