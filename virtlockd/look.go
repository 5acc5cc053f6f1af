package virtlockd

import (
	"errors"
	"fmt"

	"github.com/dlmlock/dlmlockd/virtlockd/disknames"
)

// mostLooks is how many disks are looked at at once, those whose storage does not
// answer included: each of these keeps a thread.
const mostLooks = 64

var (
	errStorage   = errors.New("the storage does not answer")
	errManyLooks = fmt.Errorf("%w: %d disks wait for it already", errStorage, mostLooks)
)

// look finds all the names of the disk, and not only those of its spelling. It looks
// with the eyes of who has made the connection, and does not wait longer than until
// the deadline.
func (o *operation) look() error {
	if o.disk == "" || o.pid == 0 {
		return nil
	}
	if name, ok := disknames.Plain(o.pid, o.disk); ok {
		o.resources = []string{name}
		return nil
	}
	found, err := o.find()
	if err != nil {
		return err
	}
	o.resources = found.Names
	if found.Links > 0 {
		o.door.log.Warn("a disk has hard links: a guest that uses another of them is refused on this host, but not on "+
			"other hosts", "domain", o.domain.name, "path", o.what, "links", found.Links)
	}
	if found.Unseen != nil {
		o.door.log.Warn("a disk can't be examined, so it is locked only under its path as spelled", "domain", o.domain.name,
			"path", o.what, "err", found.Unseen)
	}
	return nil
}

// find names a disk. It does so in another goroutine, because a file server may not answer.
func (o *operation) find() (disknames.Found, error) {
	d := o.door
	o.relieve() // also because look may log what was found
	select {
	case d.looks <- struct{}{}:
	default:
		return disknames.Found{}, errManyLooks
	}
	found, in, err := await(o.connection, o.deadline, func(done func(disknames.Found, error)) {
		go func() {
			f, err := disknames.Of(o.pid, o.disk)
			<-d.looks
			done(f, err)
		}()
	})
	if !in {
		return found, errStorage
	}
	return found, err
}
