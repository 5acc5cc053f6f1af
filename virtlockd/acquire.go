package virtlockd

import (
	"errors"
	"fmt"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// operation is one ACQUIRE or RELEASE on its way. Everything about it happens on the goroutine of
// the connection.
type operation struct {
	*connection
	target
	mode     dlm.Mode      // EX, or PR for a disk that guests share
	onLost   *api.OnLost   // nil: no helper is configured
	timeout  time.Duration // as configured, for the text of an error
	deadline time.Time     // libvirt's client has none of its own, and libvirtd waits for the answer
}

// lostData is what a helper for lost locks gets: what is to be done, and the libvirtd
// that does it. Libvirt tells its own driver what the domain says of that, but not
// virtlockd.
const lostData = "default qemu:///system"

// begin reads what is asked for under the settings of the moment, which a reload may change.
func (c *connection) begin(r resourceArgs) (*operation, error) {
	settings := c.door.settings.Load()
	o := &operation{connection: c, mode: dlm.EX, timeout: settings.Timeout, deadline: time.Now().Add(settings.Timeout)}
	if settings.Helper != "" {
		o.onLost = &api.OnLost{Helper: settings.Helper, Data: lostData}
	}
	var err error
	o.target, err = settings.target(r)
	return o, err
}

// acquire locks a disk, as the package comment tells line by line.
func (c *connection) acquire(r resourceArgs) error {
	o, err := c.begin(r)
	if err != nil {
		return err
	}
	if r.Flags&acquireShared != 0 {
		o.mode = dlm.PR
	}
	if err := o.take(); err != nil {
		o.undo()
		return err
	}
	return nil
}

// take does the lines 1 to 3.
func (o *operation) take() error {
	switch {
	case o.domain.ended():
		return o.fault("can't be locked", fmt.Errorf("the domain has no process that could hold locks (pid %d)",
			o.domain.pid))
	case o.domain.err != nil:
		return o.fault("can't be locked", fmt.Errorf("its process (pid %d) can't be examined: %w", o.domain.pid,
			o.domain.err))
	case !o.open(o.deadline):
		return o.late("can't be locked")
	}
	if err := o.look(); err != nil {
		return o.fault("can't be identified", err)
	}
	grants, in, err := await(o.connection, o.deadline, func(done func([]api.Grant, error)) {
		o.session.acquire(o.wants(), api.AcquireOptions{
			Owner: o.domain.owner(), HasOwner: true, Label: o.label(),
			Lifetime: state.Process, PID: o.domain.pid, Start: o.domain.start, HasStart: true, OnLost: o.onLost,
		}, done)
	})
	if !in || err != nil {
		return o.failed(in, err)
	}
	for _, g := range grants {
		if g.New {
			o.taken = append(o.taken, api.Want{Lockspace: g.Lockspace, Resource: g.Resource})
		}
	}
	return nil
}

// failed makes the answer of an ACQUIRE that has failed.
func (o *operation) failed(in bool, err error) error {
	switch {
	case !in:
		o.closeSession() // which withdraws the call
		return o.late("can't be locked")
	case errors.Is(err, api.WouldBlock), errors.Is(err, api.AlreadyHeld):
		return o.busy(err)
	}
	return o.fault("can't be locked", err)
}

// undo releases what this connection has taken. The service has the call before the
// refusal is answered, so that a client which tries again at once comes after it;
// whether it is done is not waited for longer than the call may take.
func (o *operation) undo() {
	if len(o.taken) == 0 {
		return
	}
	wants := o.taken
	o.taken = nil
	if !o.open(o.deadline) {
		return
	}
	_, in, err := await(o.connection, o.deadline, func(done func(uint32, error)) {
		o.session.release(wants, o.domain.owner(), nil, done)
	})
	if in && err != nil {
		o.relieve()
		o.door.log.Error("what a guest took before it was refused another disk is not released; it ends with the guest",
			"owner", o.domain.owner(), "err", err)
	}
}

// release unlocks a disk. If nothing is held that is good: libvirt releases twice
// what a guest has that is suspended.
func (c *connection) release(r resourceArgs) error {
	o, err := c.begin(r)
	if err != nil {
		return nil // what can't be locked is not held
	}
	switch {
	case o.domain.ended():
		return nil // the locks have gone with it
	case o.domain.err != nil:
		return o.fault("can't be unlocked", fmt.Errorf("its process (pid %d) can't be examined: %w", o.domain.pid,
			o.domain.err))
	case !o.open(o.deadline):
		return o.late("can't be unlocked")
	}
	_, in, err := await(o.connection, o.deadline, func(done func(uint32, error)) {
		o.session.release(o.wants(), o.domain.owner(), []string{o.label()}, done)
	})
	switch {
	case !in:
		return o.late("can't be unlocked")
	case err == nil, errors.Is(err, api.NotHeld), errors.Is(err, api.NoSuchLockspace):
		return nil
	}
	return o.fault("can't be unlocked", err)
}

// wants are the locks that the disk has.
func (o *operation) wants() []api.Want {
	wants := make([]api.Want, len(o.resources))
	for i, r := range o.resources {
		wants[i] = api.Want{Lockspace: o.lockspace, Resource: r, Mode: o.mode}
	}
	return wants
}

// label is what dlmlock.so gives the locks of a disk.
func (o *operation) label() string { return o.domain.name + ": " + o.what }
