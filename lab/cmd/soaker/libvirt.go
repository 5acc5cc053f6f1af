package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	dlmlock "github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
)

// guest is what the doors for libvirt have in common: the locks of a guest are leases,
// exclusive or shared, and end with the guest's process, which is this process.
type guest struct{}

func (guest) modes() []dlm.Mode { return []dlm.Mode{dlm.EX, dlm.EX, dlm.PR} }
func (guest) converts() bool    { return false }
func (guest) cutAt() uint64     { return 0 }

func (guest) convert(string, dlm.Mode, time.Duration) (uint64, error) {
	return 0, errors.New("libvirt converts nothing")
}

// busyCode is VIR_ERR_RESOURCE_BUSY.
const busyCode = 87

// guestError makes an error from one of a lock driver. Errors that leave the lock as it
// was have a number of their own.
func guestError(code int, text string) error {
	if code == busyCode {
		return &dlmlock.Error{Kind: dlmlock.WouldBlock, Message: text}
	}
	return &dlmlock.Error{Kind: dlmlock.Failed, Message: text}
}

// driver is dlmlock.so in a process that plays libvirtd (libvirt/driver).
type driver struct {
	guest
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Scanner
	uuid      string
	lockspace string
	ended     bool
}

func newDriver(c *client) (door, error) {
	d := &driver{cmd: exec.Command(c.lockdriver, c.driver),
		uuid:      fmt.Sprintf("50a4e000-0000-0000-%04d-%012d", c.node, c.number),
		lockspace: c.lockspace}
	d.cmd.Stderr = os.Stderr
	var err error
	if d.in, err = d.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	d.out = bufio.NewScanner(out)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	if err := d.say("init %s", c.driverConf); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// say sends a command and reads the answer. A call of the driver has a time limit
// of its own.
func (d *driver) say(format string, args ...any) error {
	if _, err := fmt.Fprintf(d.in, format+"\n", args...); err != nil {
		d.ended = true
		return err
	}
	if !d.out.Scan() {
		d.ended = true
		return errors.New("the lock driver's process has ended")
	}
	text := d.out.Text()
	if text == "ok" {
		return nil
	}
	var code int
	if _, err := fmt.Sscanf(text, "error %d ", &code); err != nil {
		return errors.New(text)
	}
	return guestError(code, text)
}

// sharedFlag is the flag of a shared disk for lock drivers.
const sharedFlag = 1 << 1

// with runs a command on a lock manager that has one lease, as libvirtd does.
func (d *driver) with(name string, flags int, verb string) error {
	if err := d.say("new 0 %s soak %d", d.uuid, os.Getpid()); err != nil {
		return err
	}
	defer func() { _ = d.say("free 0") }()
	if err := d.say("lease 0 %s %s %d", d.lockspace, name, flags); err != nil {
		return err
	}
	return d.say("%s", verb)
}

func (d *driver) acquire(names []string, mode dlm.Mode, _ time.Duration) ([]uint64, error) {
	flags := 0
	if mode == dlm.PR {
		flags = sharedFlag
	}
	return make([]uint64, len(names)), d.with(names[0], flags, "acquire 0 0")
}

func (d *driver) release(names []string) error { return d.with(names[0], 0, "release 0") }
func (d *driver) alive() bool                  { return !d.ended }

func (d *driver) close() {
	_ = d.in.Close()
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// virtlockd speaks the protocol of libvirt's own lock driver. As libvirtd does, it
// makes a connection for each operation on a guest.
type virtlockd struct {
	guest
	socket, lockspace string
	uuid              [16]byte
}

func newVirtlockd(c *client) (door, error) {
	v := &virtlockd{socket: c.virtlockd, lockspace: c.lockspace}
	copy(v.uuid[:], fmt.Sprintf("soak%4d%8d", c.node, c.number))
	return v, nil
}

// The procedures of libvirt's src/locking/lock_protocol.x.
const (
	lockProgram = 0x0EA7BEEF
	register    = 1
	acquire     = 6
	release     = 7
	sharedLock  = 1
)

func (v *virtlockd) acquire(names []string, mode dlm.Mode, _ time.Duration) ([]uint64, error) {
	flags := uint32(0)
	if mode == dlm.PR {
		flags = sharedLock
	}
	return make([]uint64, len(names)), v.with(acquire, names[0], flags)
}

func (v *virtlockd) release(names []string) error { return v.with(release, names[0], 0) }
func (v *virtlockd) alive() bool                  { return true }
func (v *virtlockd) close()                       {}

func (v *virtlockd) with(procedure uint32, name string, flags uint32) error {
	conn, err := net.Dial("unix", v.socket)
	if err != nil {
		return &dlmlock.Error{Kind: dlmlock.NotRunning, Message: err.Error()}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(callTime))
	domain := append(v.uuid[:len(v.uuid):len(v.uuid)], xdr("soak", uint32(1), uint32(os.Getpid()), uint32(0))...)
	if err := call(conn, 1, register, domain); err != nil {
		// Nothing was requested yet, and what is held already stays.
		return &dlmlock.Error{Kind: dlmlock.NotRunning, Message: err.Error()}
	}
	return call(conn, 2, procedure, xdr("/soak/"+v.lockspace, name, flags))
}

// xdr encodes strings and words.
func xdr(values ...any) (b []byte) {
	for _, v := range values {
		switch v := v.(type) {
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case string:
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v+strings.Repeat("\x00", -len(v)&3)...)
		}
	}
	return b
}

// headerSize is the size of the header of a message of libvirt's RPC, including the length.
const headerSize = 28

// call makes one call and reads the answer.
func call(conn net.Conn, serial, procedure uint32, body []byte) error {
	head := xdr(uint32(headerSize+len(body)), uint32(lockProgram), uint32(1), procedure, uint32(0), serial, uint32(0))
	if _, err := conn.Write(append(head, body...)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, head); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head)
	if size < headerSize || size > 1<<20 {
		return fmt.Errorf("an answer of %d bytes", size)
	}
	answer := make([]byte, size-headerSize)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	if status := binary.BigEndian.Uint32(head[24:]); status == 0 {
		return nil
	}
	if len(answer) < 4 {
		return errors.New("an error without a code")
	}
	return guestError(int(binary.BigEndian.Uint32(answer)), string(answer))
}
