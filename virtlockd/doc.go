// Package virtlockd is the door for unmodified libvirt: it answers where virtlockd
// does, so that libvirt's own lock driver ("lockd", which every distribution ships)
// has the disks of guests locked in the cluster's DLM.
//
//	d := virtlockd.New(virtlockd.Config{Settings: s, Instance: id, Log: log})
//	go d.Serve(listener)   // at once: a client has no timeout of its own
//	d.Start(service)       // when the service is ready
//	d.Close()
//
// It owns the wire (libvirt's RPC frame, the eight calls of its lock protocol and
// the keepalive), the state of each connection, and which of its names a disk is
// locked under. It refuses to know who holds what, which the service knows, and how
// libvirt uses the calls, except for what docs/libvirt.md promises of it.
//
// # The order of events
//
// The owner of a lock is the guest: "UUID/PID/START TIME" of its QEMU, as the lock
// driver dlmlock.so has it. Its lifetime is that process, and not a connection.
//
//	libvirtd, at its start  CREATE_LOCKSPACE for each directory of qemu-lockd.conf.
//	                        It is answered as good at once: if it failed, libvirtd
//	                        would not start.
//	the child that becomes  REGISTER with its own pid. Its start time is read before
//	QEMU                    the answer: the child waits, so the pid is still its own.
//	                        RESTRICT. The connection stays open in QEMU; as long as
//	                        it does, the start time is remembered.
//	libvirtd, before the    On a new connection REGISTER with the pid of that guest,
//	guest's processors run  then ACQUIRE for one disk after the other, up to the first
//	                        error. Each goes to the service with that start time: if
//	                        the process has ended, and its pid is another's, the
//	                        service refuses.
//	libvirtd, at a suspend  REGISTER and RELEASE in the same way.
//	or detach
//
// One ACQUIRE, line by line. "taken" is what this connection has taken and its owner
// did not hold before.
//
//	1  names of the disk    no lock is touched; storage that does not answer refuses
//	2  acquire              all names or none; durable before it is answered
//	                        (docs/design.md, section 4)
//	3  "taken" grows        by the locks that are new
//	4  answer
//	2a refused              what is in "taken" is released, and then the refusal is
//	                        answered: the client gives up after the first error, and
//	                        releases nothing itself
//	2b out of time          the call is withdrawn (the session is closed), the rest
//	                        as 2a. A grant that comes afterwards is undone by the
//	                        service before anything is written
//
// If this program dies: before 2 nothing has happened. From 2 on the disks that were
// granted stay locked, the client sees its connection end and reports an error;
// libvirtd then ends QEMU, and with the process the locks go. If it does not, because
// it dies as well, the guest has the locks that it runs with. After a restart the
// start time is read anew when libvirtd registers a guest, and the service compares
// it with that in the owner's name.
//
// A RELEASE of what is not held is good, and so is one of a guest whose process has
// ended: its locks have gone with it.
//
// Concurrency: one goroutine for each socket, with a thread of its own, reads the calls of all its
// connections and carries them out (loop.go). If a call has to wait, for a lock manager, a disk
// or the log, its goroutine first hands the socket over to another one, so it delays nobody. Each
// call is answered within Settings.Timeout. The methods of Door may be called from any goroutine.
package virtlockd
