package varlink

import (
	"errors"
	"os"
	"strings"

	"github.com/dlmlock/dlmlockd/data"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// interfaces are the interfaces of the service with their descriptions, in the
// order in which GetInfo lists them.
var interfaces = []struct{ name, description string }{
	{"io.systemd.service", data.SystemdServiceVarlink},
	{Interface, data.Varlink},
	{"org.varlink.service", data.ServiceVarlink},
}

// standard are the methods of the standard interfaces. They need a turn, like every
// call, but not the service.
var standard = map[string]func(*Door, *wire.Call){
	"org.varlink.service.GetInfo":                 (*Door).getInfo,
	"org.varlink.service.GetInterfaceDescription": getInterfaceDescription,
	"io.systemd.service.Ping":                     ping,
	"io.systemd.service.Reload":                   (*Door).reload,
	"io.systemd.service.SetLogLevel":              (*Door).setLogLevel,
	"io.systemd.service.GetLogLevel":              (*Door).getLogLevel,
	"io.systemd.service.GetEnvironment":           getEnvironment,
}

// unknown ends a call of a method that there is not.
func unknown(_ *Door, w *wire.Call) {
	of, _ := splitMethod(w.Method)
	for _, i := range interfaces {
		if i.name == of {
			fail(w, errMethodNotFound, map[string]string{"method": w.Method})
			return
		}
	}
	fail(w, errInterfaceNotFound, map[string]string{"interface": of})
}

// expectMore ends a call without "more" of a method that needs it.
func expectMore(_ *Door, w *wire.Call) { fail(w, errExpectedMore, nil) }

func splitMethod(method string) (of, name string) {
	if i := strings.LastIndexByte(method, '.'); i >= 0 {
		return method[:i], method[i+1:]
	}
	return method, ""
}

// The methods of the standard interfaces run on the connection's goroutine (direct), so
// they may write their reply themselves. An error of writing is left to the connection.

// read reads the parameters of a call of the standard interfaces; false: they are
// wrong, and the call is answered.
func read(w *wire.Call, into any) bool {
	err := wire.Decode(w.Parameters, into)
	if err != nil {
		_, _ = writeError(w, parameterError(err))
	}
	return err == nil
}

type infoOut struct {
	Vendor     string   `json:"vendor"`
	Product    string   `json:"product"`
	Version    string   `json:"version"`
	URL        string   `json:"url"`
	Interfaces []string `json:"interfaces"`
}

func (d *Door) getInfo(w *wire.Call) {
	if !read(w, &nothing{}) {
		return
	}
	out := infoOut{"dlmlockd", "Cluster lock service", d.cfg.Version, "https://github.com/dlmlock/dlmlockd", nil}
	for _, i := range interfaces {
		out.Interfaces = append(out.Interfaces, i.name)
	}
	_, _ = w.Reply(out)
}

type descriptionIn struct {
	Interface string `json:"interface"`
}

type descriptionOut struct {
	Description string `json:"description"`
}

func getInterfaceDescription(_ *Door, w *wire.Call) {
	var in descriptionIn
	if !read(w, &in) {
		return
	}
	for _, i := range interfaces {
		if i.name == in.Interface {
			_, _ = w.Reply(descriptionOut{i.description})
			return
		}
	}
	fail(w, errInterfaceNotFound, map[string]string{"interface": printable(in.Interface)})
}

func ping(_ *Door, w *wire.Call) {
	if read(w, &nothing{}) {
		_, _ = w.Reply(nothing{})
	}
}

// privileged lets root and the service's own user pass; all others get an error.
func privileged(w *wire.Call) bool {
	if uid := w.Conn.Peer.UID; uid == 0 || uid == uint32(os.Geteuid()) {
		return true
	}
	fail(w, errPermissionDenied, refused{"only root and the user of the service may do this"})
	return false
}

// reload reads the configuration again. An error of Config.Reload says what is
// wrong with the configuration, unless it is an *api.Error. The answer comes when the new
// settings are in force.
func (d *Door) reload(w *wire.Call) {
	if !read(w, &nothing{}) || !privileged(w) {
		return
	}
	if d.cfg.Reload == nil {
		fail(w, errMethodNotImplemented, map[string]string{"method": w.Method})
		return
	}
	if err := d.cfg.Reload(); err != nil {
		var e *api.Error
		if !errors.As(err, &e) {
			err = &api.Error{Op: "reload", Kind: invalidConfiguration, Mode: dlm.None, Text: err.Error(), Err: err}
		}
		_, _ = writeError(w, err)
		return
	}
	_, _ = w.Reply(nothing{})
}

type logLevel struct {
	Level int `json:"level"`
}

// setLogLevel logs who has changed the level, at level info: whoever makes the service
// quieter leaves a trace.
func (d *Door) setLogLevel(w *wire.Call) {
	var in logLevel
	switch {
	case !read(w, &in) || !privileged(w):
	case d.cfg.LogLevel == nil:
		fail(w, errMethodNotImplemented, map[string]string{"method": w.Method})
	case d.cfg.LogLevel.SetSyslogLevel(in.Level) != nil:
		fail(w, errInvalidParameter, invalidParameter{"level", "it is a number of syslog(3), 0 to 7"})
	default:
		d.log.Info("the log level was set", "level", in.Level, "uid", w.Conn.Peer.UID, "pid", w.Conn.Peer.PID)
		_, _ = w.Reply(nothing{})
	}
}

func (d *Door) getLogLevel(w *wire.Call) {
	switch {
	case !read(w, &nothing{}):
	case d.cfg.LogLevel == nil:
		fail(w, errMethodNotImplemented, map[string]string{"method": w.Method})
	default:
		_, _ = w.Reply(logLevel{d.cfg.LogLevel.SyslogLevel()})
	}
}

// getEnvironment is privileged, because an environment may have secrets in it.
func getEnvironment(_ *Door, w *wire.Call) {
	if !read(w, &nothing{}) || !privileged(w) {
		return
	}
	out := struct {
		Environment []string `json:"environment"`
	}{os.Environ()}
	for i := range out.Environment {
		out.Environment[i] = printable(out.Environment[i])
	}
	_, _ = w.Reply(out)
}
