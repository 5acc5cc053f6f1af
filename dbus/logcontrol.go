package dbus

import (
	"fmt"

	godbus "github.com/godbus/dbus/v5"

	"github.com/dlmlock/dlmlockd/data"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// org.freedesktop.LogControl1 is what "systemctl service-log-level" calls, at
// a path that systemd has chosen (org.freedesktop.LogControl1(5)).
const (
	ifaceLogControl                   = "org.freedesktop.LogControl1"
	logControlPath  godbus.ObjectPath = "/org/freedesktop/LogControl1"
)

// LogControl is the log of the process. The words are those of
// org.freedesktop.LogControl1(5); an error's text is for the caller. The
// methods may be called from any goroutine and must not block.
type LogControl interface {
	Level() string                 // "emerg" to "debug"
	SetLevel(level string) error   // the error names the levels
	Target() string                // where the log goes: "console" or "journal"
	SetTarget(target string) error // also "auto"
	Identifier() string            // SYSLOG_IDENTIFIER= of every entry
}

// logProperties are about the process and not about the service, hence no Status.
var logProperties = []property{
	prop("LogLevel", "s", emitsFalse, func(s *Server, _ *api.Status) any { return s.cfg.LogControl.Level() }),
	prop("LogTarget", "s", emitsFalse, func(s *Server, _ *api.Status) any { return s.cfg.LogControl.Target() }),
	prop("SyslogIdentifier", "s", emitsConst, func(s *Server, _ *api.Status) any { return s.cfg.LogControl.Identifier() }),
}

// logControlNode is the object. Everybody may read. Set is parsed and not answered in the
// reader, because only the session knows who the caller is.
func logControlNode(rest ...*iface) *node {
	properties := newIface(ifaceProperties, nil,
		methodGet, &method{name: "Set", in: "ssv", parse: parseSetLog}, methodGetAll)
	return &node{xml: data.LogControlIntrospection,
		ifaces: append([]*iface{newIface(ifaceLogControl, logProperties), properties}, rest...)}
}

// setLog is Set of a property of the log.
type setLog struct {
	own
	iface, name, sig, value string
}

// parseSetLog reads the interface, the property and the value of a Set. Properties of the log
// are texts; a value of another type is refused by serve.
func parseSetLog(body *reader) (request, error) {
	r := setLog{iface: body.text(), name: body.text(), sig: string(body.signature())}
	if r.sig == "s" {
		r.value = body.text()
	}
	return r, nil
}

// serve lets root alone change the log: the bus policy says so too, but the
// administrator may have loosened that for calls of another kind.
func (r setLog) serve(c *call) {
	p, err := findProperty(c.node, r.iface, r.name)
	if err == nil {
		err = r.set(c, p.name)
	}
	if err != nil {
		c.Fail(err)
		return
	}
	c.reply()
}

func (r setLog) set(c *call, name string) error {
	var set func(string) error
	switch name {
	case "LogLevel":
		set = c.srv.cfg.LogControl.SetLevel
	case "LogTarget":
		set = c.srv.cfg.LogControl.SetTarget
	default:
		return busError{errReadOnly, name + " can't be set"}
	}
	if c.UID() != 0 {
		return busError{errAccessDenied, fmt.Sprintf("only root may set %s; try sudo", name)}
	}
	if r.sig != "s" {
		return busError{errInvalidArgs, fmt.Sprintf("%s takes the type s, not %s", name, clip(r.sig))}
	}
	if err := set(r.value); err != nil {
		return busError{errInvalidArgs, err.Error()}
	}
	c.srv.log.Info("log changed over the bus", "property", name, "value", r.value, "sender", c.sender, "uid", c.UID())
	return nil
}
