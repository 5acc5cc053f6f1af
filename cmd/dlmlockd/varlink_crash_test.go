package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// locker is a client of either door.
type locker interface {
	acquire(space, resource, mode string, pairs ...any) (lockid uint32, err error)
	convert(space, resource, mode string, pairs ...any) error
	release(space, resource string, pairs ...any) error
}

// TestCrashAtEveryStepOverVarlink is the same with a client of the other door.
func TestCrashAtEveryStepOverVarlink(t *testing.T) {
	bus, dir := testbus.Start(t, testbus.Daemon), t.TempDir()
	crashAtEveryStep(t, bus, dir, &varlinkLocker{socket: crashSocket(dir)})
}

// crashSocket is where the daemon on a state directory serves Varlink.
func crashSocket(dir string) string { return dir + ".varlink" }

// startBoth starts a daemon with both doors.
func startBoth(t *testing.T, b *testbus.Bus, dir string) *running {
	t.Helper()
	return start(t, b, dir, "--varlink="+crashSocket(dir))
}

// varlinkLocker is a locker over Varlink. It connects when it has no connection.
type varlinkLocker struct {
	socket string
	conn   net.Conn
	r      *bufio.Reader
}

var errNoAnswer = errors.New("no answer")

// call returns the reply, an error as D-Bus has it, or errNoAnswer.
func (l *varlinkLocker) call(method string, parameters fields) (fields, error) {
	reply, err := l.try(method, parameters)
	if err != nil && l.conn != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
	switch {
	case err != nil:
		return nil, errNoAnswer
	case reply.Error == "org.example.DlmLock.ShuttingDown":
		return nil, errNoAnswer
	case reply.Error != "":
		return nil, godbus.Error{Name: strings.Replace(reply.Error, "DlmLock.", "DlmLock.Error.", 1)}
	}
	return reply.Parameters, nil
}

func (l *varlinkLocker) try(method string, parameters fields) (reply varlinkReply, err error) {
	if l.conn == nil {
		if l.conn, err = net.Dial("unix", l.socket); err != nil {
			l.conn = nil
			return reply, err
		}
		l.r = bufio.NewReader(l.conn)
	}
	text, err := json.Marshal(fields{"method": "org.example.DlmLock." + method, "parameters": parameters})
	if err == nil {
		_, err = l.conn.Write(append(text, 0))
	}
	if err == nil {
		text, err = l.r.ReadBytes(0)
	}
	if err == nil {
		err = json.Unmarshal(text[:len(text)-1], &reply)
	}
	return reply, err
}

// about makes parameters; the pairs are those of client.
func about(space, resource string, pairs []any) fields {
	f := fields{"lockspace": space, "resource": resource}
	for i := 0; i < len(pairs); i += 2 {
		f[pairs[i].(string)] = pairs[i+1]
	}
	return f
}

// selecting is about with the owner in a selector.
func selecting(space, resource string, pairs []any) fields {
	f := about(space, resource, pairs)
	f["select"] = fields{"owner": f["owner"]}
	delete(f, "owner")
	return f
}

func (l *varlinkLocker) acquire(space, resource, mode string, pairs ...any) (lockid uint32, err error) {
	f := about(space, resource, pairs)
	f["mode"] = mode
	reply, err := l.call("Acquire", f)
	if err != nil {
		return 0, err
	}
	return uint32(reply["granted"].(fields)["lockId"].(float64)), nil
}

func (l *varlinkLocker) convert(space, resource, mode string, pairs ...any) error {
	f := selecting(space, resource, pairs)
	f["mode"] = mode
	_, err := l.call("Convert", f)
	return err
}

func (l *varlinkLocker) release(space, resource string, pairs ...any) error {
	_, err := l.call("Release", selecting(space, resource, pairs))
	return err
}

func tally(t *testing.T, ws []*worker, kills int) {
	var answered, unknown, refused int
	for _, w := range ws {
		answered += int(w.answered.Load())
		unknown += w.unknown
		refused += w.refused
	}
	t.Logf("%d kills, %d calls answered (%d of them with a refusal), %d unanswered", kills, answered, refused, unknown)
	require.Positive(t, unknown)
	require.Greater(t, answered, 10*kills, "too little work to mean anything")
}
