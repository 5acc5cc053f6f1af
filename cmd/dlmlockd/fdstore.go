package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// fdStore is the descriptor store of the service manager (systemd.service(5),
// FileDescriptorStoreMax=): what is put there comes back at the next start, however this
// process ends, unless the unit is stopped. It implements varlink.Keeper.
//
// The service manager does not answer: a descriptor for which it has no room is closed.
// So the service has to know how many there may be. From version 254 on systemd says so
// in FDSTORE; the unit sets it for older ones.
//
// What was sent is in the service manager's queue if this process dies: that takes
// messages before it takes note of ended processes.
type fdStore struct {
	room  int // how many descriptors the service manager keeps (FileDescriptorStoreMax=)
	log   *slog.Logger
	queue chan storeMessage // one goroutine sends, so that a Drop never overtakes its Keep
	ended chan struct{}     // send has ended
}

// storeMessage is a message to the service manager.
type storeMessage struct {
	text string
	fd   int        // to be put into the store; -1: to be removed
	done chan error // of capacity 1; nil: nobody waits
}

const (
	// storeTimeout is how long the service manager may take to take a message.
	storeTimeout = time.Second
	// storeQueue is how many messages may wait. It is twice the room of the unit, so that
	// all connections may end at once.
	storeQueue = 8192
)

// newFDStore returns the store, or nil if there is none.
func newFDStore(getenv func(string) string, log *slog.Logger) (*fdStore, error) {
	// An older systemd without FDSTORE, or another manager, is not an error: connections and
	// descriptors then end with this process.
	room, err := strconv.Atoi(getenv("FDSTORE"))
	address := getenv("NOTIFY_SOCKET")
	if err != nil || room <= 0 || address == "" {
		return nil, nil
	}
	if address[0] == '@' { // an abstract socket (sd_notify(3))
		address = "\x00" + address[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("reach the service manager: %w", err)
	}
	s := &fdStore{room: room, log: log, queue: make(chan storeMessage, storeQueue), ended: make(chan struct{})}
	go s.send(conn)
	return s, nil
}

// close ends the store when everything is sent. Nothing may be put into it any more.
func (s *fdStore) close() {
	if s != nil {
		close(s.queue)
		<-s.ended
	}
}

// send sends the messages in their order. With an error the service manager has not
// taken it.
func (s *fdStore) send(conn *net.UnixConn) {
	defer close(s.ended)
	defer conn.Close()
	for m := range s.queue {
		var rights []byte
		if m.fd >= 0 {
			rights = unix.UnixRights(m.fd)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(storeTimeout))
		err := sendTo(conn, m.text, rights)
		if m.fd >= 0 {
			_ = unix.Close(m.fd)
		}
		switch {
		case m.done != nil:
			m.done <- err
		case err != nil:
			s.log.Warn("systemd keeps a descriptor that is not needed any more, until the next start", "err", err)
		}
	}
}

// sendTo sends a message to the other end of a connected socket, which
// UnixConn.WriteMsgUnix does not do. Waiting for room is left to the runtime's poller, for
// which the deadline counts.
func sendTo(conn *net.UnixConn, text string, rights []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte(text), rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	return errors.Join(werr, os.NewSyscallError("sendmsg", err))
}

// Room implements varlink.Keeper.
func (s *fdStore) Room() int { return s.room }

// Keep implements varlink.Keeper. The copy makes the message good after the caller has gone
// on: it may time out here while the message is in the queue.
func (s *fdStore) Keep(name string, fd uintptr) error {
	// The copy is at least 3: 0 to 2 may be closed, and a descriptor in their place could be written
	// to as standard output or error.
	own, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	m := storeMessage{"FDSTORE=1\nFDNAME=" + name, own, make(chan error, 1)}
	timeout := time.NewTimer(storeTimeout)
	defer timeout.Stop()
	select {
	case s.queue <- m:
	default:
		_ = unix.Close(own)
		return errManagerHangs
	}
	select {
	case err := <-m.done:
		return err
	case <-timeout.C:
		s.Drop(name) // it may still be sent
		return errManagerHangs
	}
}

var errManagerHangs = errors.New("the service manager takes no messages")

// Drop implements varlink.Keeper. A descriptor that stays in the store is found by the next
// start, which drops it if its other end is closed.
func (s *fdStore) Drop(name string) {
	select {
	case s.queue <- storeMessage{text: "FDSTOREREMOVE=1\nFDNAME=" + name, fd: -1}:
	default:
		s.log.Warn("systemd keeps a descriptor that is not needed any more, until the next start", "name", name)
	}
}
