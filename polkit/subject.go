package polkit

import (
	"errors"
	"fmt"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
)

// subject is a Subject: (sa{sv}).
type subject struct {
	Kind    string
	Details map[string]godbus.Variant
}

// subjectOf makes polkit's subject of a caller. It is false for one that polkitd
// can't be asked about.
//
// A pid alone means nothing, since the kernel gives it to another process when
// the caller's has ended. With a start time polkit tells the two apart where it
// has kept an authorisation, but it looks for the session by the pid alone
// (measured with 122); so unchanged looks before and after the question. After
// that a pidfd, which polkit takes from version 124 on, would add nothing.
func subjectOf(s api.Subject) (who subject, ok bool) {
	switch {
	case s.BusName != "":
		return subject{"system-bus-name", map[string]godbus.Variant{"name": godbus.MakeVariant(s.BusName)}}, true
	case s.PID != 0 && s.Start != 0:
		return subject{"unix-process", map[string]godbus.Variant{"pid": godbus.MakeVariant(s.PID),
			"start-time": godbus.MakeVariant(s.Start), "uid": godbus.MakeVariant(int32(s.UID))}}, true
	}
	return subject{}, false
}

// unchanged refuses a caller whose process has ended, so that its pid may be that of another one. A
// zombie has ended as well: what its children and others do with its connection must not depend on
// when its parent waits for it. Where it can't be found out, polkitd's word is all there is. The
// name of a caller on the bus never comes to mean another one.
func unchanged(s api.Subject, act api.Action, details map[string]string) error {
	if s.BusName != "" {
		return nil
	}
	if errors.Is(process.Lives(process.ID{PID: s.PID, Start: s.Start}), process.ErrGone) {
		return denied(act, details, fmt.Sprintf("process %d, which has connected, has ended; "+
			"connect again, since polkit can't tell whose call it is", s.PID), nil)
	}
	return nil
}
