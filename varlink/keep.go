package varlink

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// Connections and descriptors that locks hang on are kept over a restart of the
// service: a copy lies with a Keeper, which is the service manager. What exists if the
// process dies after each step of an Acquire:
//
//	the lock is recorded as held    the copy is not there: the connection ends with the
//	                                process, and the next start releases the lock.
//	                                Nobody was told of the grant
//	the copy is put away            the connection goes on, with a Mark (package wire);
//	                                the next start answers the call: its outcome is not
//	                                known. Nobody was told of the grant
//	the reply is being written      the Mark is Unclear: the next start closes the
//	                                connection and releases the lock
//	the reply is written            the connection goes on, and the lock stays
//
// The same at the end of a connection or a lock:
//
//	the client is gone              the next start finds that the other end is closed, or
//	                                no copy, and releases the lock
//	the session has ended, and the  the next start releases the lock and drops the copy
//	copy is not dropped
//	the copy is dropped             nothing is left
//
// Where no copy is made, since there is no Keeper, it does not answer, or has no room,
// the lock ends with the connection at the end of the service, as without a Keeper.

// Keeper keeps copies of descriptors for the next start of the service. Its methods
// may be called from any goroutine.
type Keeper interface {
	// Keep has a copy kept under a name until Drop. It may block for a second.
	Keep(name string, fd uintptr) error
	// Drop never blocks. A Keep that follows it comes after it.
	Drop(name string)
	// Room is how many descriptors may be kept at once.
	Room() int
}

const (
	// keptConnection and keptDescriptor begin the names of what is kept. The whole name is
	// all that the next start learns (FDNAME= of sd_notify(3), at most 255 characters
	// without a colon).
	keptConnection = "varlink-connection"
	keptDescriptor = "varlink-descriptor"
	// userPart is the part of the Keeper's room that one user other than root may take.
	userPart = 4
)

// shelf counts what is kept.
type shelf struct {
	keeper Keeper // nil: nothing is kept
	log    *slog.Logger

	mu         sync.Mutex
	taken      int            // descriptors that are kept, of all users
	users      map[uint32]int // and of each; a user without any has no entry
	complained time.Time      // when it was last logged that something is not kept
}

// take counts one more descriptor of a user, if there is room. The Keeper would refuse
// one too many as well, but not say whose share it was.
func (s *shelf) take(uid uint32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	room := s.keeper.Room()
	if s.taken >= room || uid != 0 && s.users[uid] >= room/userPart {
		return false
	}
	s.taken++
	s.users[uid]++
	return true
}

// drop drops a copy that take has counted.
func (s *shelf) drop(name string, uid uint32) {
	s.keeper.Drop(name)
	s.giveBack(uid)
}

func (s *shelf) giveBack(uid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	if s.users[uid]--; s.users[uid] == 0 {
		delete(s.users, uid)
	}
}

var errNoRoom = errors.New("there is no room for another one (FileDescriptorStoreMax= of the unit, " +
	"a quarter of it for each user)")

// complain logs that something is not kept, once a minute at most.
func (s *shelf) complain(name string, uid uint32, err error) {
	s.mu.Lock()
	quiet := time.Since(s.complained) < time.Minute
	if !quiet {
		s.complained = time.Now()
	}
	s.mu.Unlock()
	if !quiet {
		s.log.Warn("a lock will end when the service is restarted, since its connection can't be kept",
			"name", name, "uid", uid, "err", err)
	}
}

// keep has the connection kept, since a lock hangs on it. held is the lock that the
// call is about that goes on; 0: the call ends.
func (c *conn) keep(w *wire.Conn, held api.Ref) {
	s := &c.door.shelf
	if s.keeper == nil || c.kept != "" && held == 0 {
		return
	}
	name := c.keptName(held)
	var err error
	switch {
	case c.kept == name:
		return
	case c.kept != "":
		// The name says which lock the call goes on about, so it has changed; the room that
		// was taken goes on to the new name.
		s.keeper.Drop(c.kept)
	case !s.take(c.creds.UID):
		err = errNoRoom
	}
	if c.kept = name; err == nil {
		c.door.step("keep a connection")
		if err = w.Keep(func(fd uintptr) error { return s.keeper.Keep(name, fd) }); err != nil {
			s.giveBack(c.creds.UID)
		}
	}
	if err != nil {
		c.kept = ""
		w.Unkeep()
		s.complain(name, c.creds.UID, err)
	}
}

// keptName is what the connection is kept as: its session, when it was opened, and
// the lock that its call is about.
func (c *conn) keptName(held api.Ref) string {
	instance, name, _ := strings.Cut(strings.TrimPrefix(string(c.first), "varlink:"), "/")
	return fmt.Sprintf("%s/%s/%s/%d/%d", keptConnection, instance, name, c.seen, held)
}

// unkeep drops the copy.
func (c *conn) unkeep() {
	if c.kept != "" {
		c.door.shelf.drop(c.kept, c.creds.UID)
		c.kept = ""
	}
}

// keep has the descriptor kept, before the client gets the other end.
func (p *pipe) keep() {
	s := &p.door.shelf
	if s.keeper == nil {
		return
	}
	uid := p.uid
	instance, session, _ := strings.Cut(strings.TrimPrefix(string(p.session.Name()), "varlink:"), "/")
	name := fmt.Sprintf("%s/%s/%s/%d/%d", keptDescriptor, instance, session, uid, p.ref)
	if !s.take(uid) {
		s.complain(name, uid, errNoRoom)
		return
	}
	p.door.step("keep a descriptor")
	if err := p.putAway(name); err != nil {
		s.giveBack(uid)
		if !errors.Is(err, os.ErrClosed) { // the lock is lost already
			s.complain(name, uid, err)
		}
		return
	}
	p.keptMu.Lock()
	p.kept = name
	p.keptMu.Unlock()
}

// putAway gives the Keeper a copy. An os.ErrClosed means that lose was faster.
func (p *pipe) putAway(name string) error {
	raw, err := p.ours.SyscallConn() // Fd would make it blocking
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = p.door.shelf.keeper.Keep(name, fd) })
	return errors.Join(cerr, err)
}

// unkeep drops the copy. It never blocks.
func (p *pipe) unkeep() {
	p.keptMu.Lock()
	name := p.kept
	p.kept = ""
	p.keptMu.Unlock()
	if name != "" {
		p.door.shelf.drop(name, p.uid)
	}
}

// keptThing is what a name of a kept descriptor says.
type keptThing struct {
	kind    string
	session api.Session
	number  uint64  // seen, in nanoseconds since the boot, or the user
	ref     api.Ref // of the lock; 0: none
}

// parseKept reads a name that keptName or pipe.keep has made.
func parseKept(name string) (k keptThing, err error) {
	parts := strings.Split(name, "/")
	if len(parts) != 5 || parts[0] != keptConnection && parts[0] != keptDescriptor {
		return k, errors.New("the service has given no descriptor this name")
	}
	number, err := strconv.ParseUint(parts[3], 10, 63)
	ref, err2 := strconv.ParseUint(parts[4], 10, 64)
	return keptThing{parts[0], api.MakeSession("varlink", parts[1], parts[2]), number, api.Ref(ref)},
		errors.Join(err, err2)
}

// IsKept reports whether the name of an inherited descriptor is that of one that the
// Keeper has kept.
func IsKept(name string) bool {
	return strings.HasPrefix(name, keptConnection+"/") || strings.HasPrefix(name, keptDescriptor+"/")
}
