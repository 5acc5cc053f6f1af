package main

import (
	"encoding/json"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// keptClient is a client of the crash test: what it was told, and whether it waits for an answer.
type keptClient struct {
	r     *keptRig
	c     *varlinkClient
	ended bool // the connection
	owed  bool // a reply to its last call, when the daemon died
	// sure are the locks that it was told of. unsure are those that a call without an answer was
	// about: they may be held or not.
	sure, unsure map[string]bool
	fd           *os.File // of a lock of lifetime descriptor
}

func (r *keptRig) client() *keptClient {
	return &keptClient{r: r, sure: map[string]bool{}, unsure: map[string]bool{}}
}

// call calls, and reports whether it was answered.
func (k *keptClient) call(method string, parameters fields, flag string) (reply varlinkReply, ok bool) {
	if k.c == nil {
		k.c = k.r.dial()
	}
	call := fields{"method": "org.example.DlmLock." + method, "parameters": parameters}
	if flag != "" {
		call[flag] = true
	}
	text, err := json.Marshal(call)
	require.NoError(k.r.t, err)
	if _, err := k.c.conn.Write(append(text, 0)); err != nil {
		k.ended = true
		return reply, false
	}
	reply, ok = k.receive()
	k.owed = !ok
	return reply, ok
}

// receive takes a reply; false: the daemon has died before it.
func (k *keptClient) receive() (reply varlinkReply, ok bool) {
	for dead := false; !k.c.readable(); {
		if dead {
			return reply, false
		}
		select {
		case <-k.r.p.exited: // it may have been written all the same
			dead = true
		case <-time.After(time.Millisecond):
		}
	}
	reply = k.c.receiveWithFile(&k.fd)
	return reply, reply.Error != "" || reply.Parameters != nil
}

// readable reports whether a reply, or the end of the connection, waits to be read.
func (c *varlinkClient) readable() (ok bool) {
	raw, err := c.conn.(*net.UnixConn).SyscallConn()
	require.NoError(c.t, err)
	require.NoError(c.t, raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		ok = err == nil && n > 0
	}))
	return ok
}

// receiveWithFile takes a reply with a descriptor, if there is one; the zero value if none comes.
func (c *varlinkClient) receiveWithFile(file **os.File) (r varlinkReply) {
	var text []byte
	buf, rights := make([]byte, 1), make([]byte, 64)
	for {
		n, nr, _, _, err := c.conn.(*net.UnixConn).ReadMsgUnix(buf, rights)
		if messages, e := unix.ParseSocketControlMessage(rights[:nr]); e == nil && len(messages) > 0 {
			if fds, e := unix.ParseUnixRights(&messages[0]); e == nil {
				*file = os.NewFile(uintptr(fds[0]), "lock")
			}
		}
		if err != nil || n == 0 {
			return r
		}
		if buf[0] == 0 {
			require.NoError(c.t, json.Unmarshal(text, &r))
			return r
		}
		text = append(text, buf[0])
	}
}

func (k *keptClient) acquire(resource, lifetime, flag string) bool {
	k.unsure[resource] = true
	reply, ok := k.call("Acquire", want(resource, lifetime), flag)
	if ok {
		require.Empty(k.r.t, reply.Error)
		delete(k.unsure, resource)
		k.sure[resource] = true
	}
	return ok
}

func (k *keptClient) release(resource string) bool {
	delete(k.sure, resource)
	k.unsure[resource] = true
	_, ok := k.call("Release", fields{"lockspace": "vms", "resource": resource}, "")
	if ok {
		delete(k.unsure, resource)
	}
	return ok
}

// keptStory is what the clients do; false: the daemon has died.
func keptStory(idle, holder, piped *keptClient) bool {
	return idle.acquire("idle", "connection", "") && holder.acquire("holder", "connection", "more") &&
		piped.acquire("piped", "descriptor", "") && idle.acquire("second", "connection", "") &&
		idle.release("idle") && idle.acquire("held", "connection", "more")
}

// check finds out what has become of a client's connection and locks.
func (k *keptClient) check(held []string) {
	t := k.r.t
	there := map[string]bool{}
	for _, r := range held {
		there[r] = true
	}
	if k.fd != nil {
		_, err := k.fd.Write([]byte{0})
		for resource := range k.sure {
			require.Equal(t, err == nil, there[resource], "%s: %v", resource, err)
		}
		return
	}
	if k.c == nil {
		return
	}
	if k.owed && !k.ended {
		require.NoError(t, k.c.conn.SetReadDeadline(time.Now().Add(patience)))
		reply := k.c.receiveWithFile(&k.fd)
		k.ended = reply.Error == "" && reply.Parameters == nil
		// A call that waited in the socket, unread, was served by the next daemon.
		require.Contains(t, []string{"", "org.example.DlmLock.Internal"}, reply.Error)
	}
	for resource := range k.sure {
		if !there[resource] {
			require.Empty(t, k.c.receiveWithFile(&k.fd), "%s is gone, and the connection has not ended", resource)
			k.ended = true
		}
	}
}

// TestCrashAtEveryStepKept kills the daemon before every step of acquiring, keeping and releasing,
// and then before every step of the start that follows. Whoever was told of a lock still has it, or
// sees that the connection has ended; every call has one answer, or none on a connection that has
// ended; and in the end nothing is left.
func TestCrashAtEveryStepKept(t *testing.T) {
	r := newKeptRig(t, 100)
	r.p.kill()
	kept, n := 0, 1
	for done := false; !done; n++ {
		r.p = launchKept(t, r.m, hooked(t), r.bus.Address, r.dir, crashAt(n))
		idle, holder, piped := r.client(), r.client(), r.client()
		if r.p.readyOrDead(t) {
			if done = keptStory(idle, holder, piped); done {
				r.p.kill()
			}
		}
		<-r.p.exited
		for m := 1; m < 200; m += 1 + n%3 {
			r.p = launchKept(t, r.m, hooked(t), r.bus.Address, r.dir, crashAt(m))
			if r.p.readyOrDead(t) {
				r.p.kill()
				break
			}
		}
		r.start()
		held := r.dial().held()
		for _, k := range []*keptClient{idle, holder, piped} {
			k.check(held)
			kept += k.leave()
		}
		r.becomes()
		require.Eventually(t, func() bool { return len(r.m.kept()) == 0 }, patience, time.Millisecond, "step %d", n)
		r.p.kill()
		if t.Failed() {
			t.Fatalf("at step %d", n)
		}
	}
	t.Logf("%d steps, %d connections and descriptors have outlived two or more kills", n-2, kept)
	require.Greater(t, n, 40, "the hook does not see the steps")
	require.Greater(t, kept, n/2)
}

// leave ends the client and returns how many of its connections and descriptors had gone on.
func (k *keptClient) leave() (kept int) {
	if k.fd != nil {
		if _, err := k.fd.Write([]byte{0}); err == nil {
			kept++
		}
		_ = k.fd.Close()
	}
	if k.c != nil {
		if !k.ended && k.fd == nil {
			kept++
		}
		_ = k.c.conn.Close()
	}
	return kept
}
