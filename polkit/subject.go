package polkit

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
)

// subject is a Subject: (sa{sv}).
type subject struct {
	Kind    string
	Details map[string]godbus.Variant
}

// asked is whom a question is about.
type asked struct {
	subject subject
	fixed   bool // it can't come to mean another process
}

// subject makes polkit's subject of a caller. It is false for one that polkitd
// can't be asked about.
//
// A pid alone means nothing, since the kernel gives it to another process when
// the caller's has ended. With a start time polkit tells the two apart where it
// has kept an authorisation, but it looks for the session by the pid alone
// (measured with 122); so unchanged looks before and after the question. A pidfd
// has no such gap; polkit takes it from version 124 on, if the connection to the
// bus can carry it.
func (a *Authority) subject(ctx context.Context, s api.Subject) (who asked, ok bool) {
	uid := godbus.MakeVariant(int32(s.UID))
	switch {
	case s.BusName != "":
		name := map[string]godbus.Variant{"name": godbus.MakeVariant(s.BusName)}
		return asked{subject{"system-bus-name", name}, true}, true
	case s.PIDFD != nil && a.takesPIDFD(ctx):
		fd := godbus.UnixFD(s.PIDFD.Fd())
		return asked{subject{"unix-process", map[string]godbus.Variant{"pidfd": godbus.MakeVariant(fd), "uid": uid}},
			true}, true
	case s.PID != 0 && s.Start != 0:
		return asked{subject{"unix-process", map[string]godbus.Variant{"pid": godbus.MakeVariant(s.PID),
			"start-time": godbus.MakeVariant(s.Start), "uid": uid}}, false}, true
	}
	return asked{}, false
}

// firstWithPIDFD is the first version of polkit that takes a pidfd.
const firstWithPIDFD = 124

// takesPIDFD reports whether polkitd takes a pidfd from here.
func (a *Authority) takesPIDFD(ctx context.Context) bool {
	const yes, no = 1, 2
	if !a.cfg.Conn.SupportsUnixFDs() {
		return false
	}
	if known := a.pidfds.Load(); known != 0 {
		return known == yes
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	defer cancel()
	var version string
	err := a.obj.CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, authorityIface,
		"BackendVersion").Store(&version)
	if err != nil {
		return false // the question itself will show why
	}
	if n, err := strconv.Atoi(version); err == nil && n >= firstWithPIDFD {
		a.pidfds.Store(yes)
		return true
	}
	a.pidfds.Store(no)
	return false
}

// unchanged refuses a caller whose process has ended, so that its pid may be that of another one. A
// zombie has ended as well: what its children and others do with its connection must not depend on
// when its parent waits for it. Where it can't be found out, polkitd's word is all there is.
func (who asked) unchanged(s api.Subject, act api.Action, details map[string]string) error {
	if who.fixed {
		return nil
	}
	if errors.Is(process.Lives(process.ID{PID: s.PID, Start: s.Start}), process.ErrGone) {
		return denied(act, details, fmt.Sprintf("process %d, which has connected, has ended; "+
			"connect again, since polkit can't tell whose call it is", s.PID), nil)
	}
	return nil
}
