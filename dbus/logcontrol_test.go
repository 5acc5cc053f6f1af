package dbus

import (
	"errors"
	"os/exec"
	"sync"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// logSettings are those of a log that goes nowhere.
type logSettings struct {
	mu            sync.Mutex
	level, target string
}

func (l *logSettings) Level() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.level
}

func (l *logSettings) SetLevel(s string) error {
	if s != "info" && s != "debug" {
		return errors.New("no such level")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.level = s
	return nil
}

func (l *logSettings) Target() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.target
}

func (l *logSettings) SetTarget(s string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.target = s
	return nil
}

func (l *logSettings) Identifier() string { return "dlmlockd" }

// Everybody reads the log's settings, root changes them.
func TestLogControl(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		r := newRig(t, b, rigConfig{})
		root, nobody := r.dial(testbus.Root), r.dial(testbus.Nobody)
		for _, c := range []*client{root, nobody} {
			c.obj = c.conn.Object(Name, logControlPath)
		}
		set := func(name string, value any) []any { return []any{ifaceLogControl, name, godbus.MakeVariant(value)} }

		root.ok(ifaceProperties+".Set", set("LogLevel", "debug")...)
		root.ok(ifaceProperties+".Set", set("LogTarget", "journal")...)
		for name, want := range map[string]string{"LogLevel": "debug", "LogTarget": "journal",
			"SyslogIdentifier": "dlmlockd"} {
			var v godbus.Variant
			require.NoError(t, nobody.ok(ifaceProperties+".Get", ifaceLogControl, name).Store(&v))
			require.Equal(t, want, v.Value(), name)
		}
		var all map[string]godbus.Variant
		require.NoError(t, nobody.ok(ifaceProperties+".GetAll", ifaceLogControl).Store(&all))
		require.Len(t, all, 3)

		nobody.refused(errAccessDenied, ifaceProperties+".Set", set("LogLevel", "info")...)
		require.ErrorContains(t, nobody.call("Set", set("LogLevel", "info")...).Err, "",
			"nor without the right interface")
		require.Equal(t, "debug", r.control.Level())

		require.Contains(t, root.refused(errInvalidArgs, ifaceProperties+".Set", set("LogLevel", "loud")...),
			"no such level")
		root.refused(errInvalidArgs, ifaceProperties+".Set", set("LogLevel", uint32(7))...)
		root.refused(errReadOnly, ifaceProperties+".Set", set("SyslogIdentifier", "x")...)
		root.refused(errUnknownProperty, ifaceProperties+".Set", set("Other", "x")...)
		root.refused(errUnknownInterface, ifaceProperties+".Set", "org.example.Other", "LogLevel",
			godbus.MakeVariant("x"))
	})
}

// The service itself refuses others than root where the bus lets them through.
func TestLogControlWithoutPolicy(t *testing.T) {
	open := `<busconfig><policy context="mandatory"><allow send_destination="org.example.DlmLock"/></policy></busconfig>`
	b := testbus.StartWith(t, testbus.Daemon, map[string]string{"open.conf": open})
	r := newRig(t, b, rigConfig{})
	nobody := r.dial(testbus.Nobody)
	nobody.obj = nobody.conn.Object(Name, logControlPath)
	text := nobody.refused(errAccessDenied, ifaceProperties+".Set", ifaceLogControl, "LogLevel",
		godbus.MakeVariant("debug"))
	require.Contains(t, text, "only root may set LogLevel")
	require.Empty(t, r.control.Level())
}

// The calls are those that systemctl makes.
func TestLogControlBusctl(t *testing.T) {
	_, err := exec.LookPath("busctl")
	require.NoError(t, err, "apt-get install systemd")
	b := testbus.Start(t, testbus.Daemon)
	r := newRig(t, b, rigConfig{})
	out, err := b.Command(t, testbus.Root, "busctl", "--address="+b.Address, "set-property", Name,
		string(logControlPath), ifaceLogControl, "LogLevel", "s", "debug").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "debug", r.control.Level())
	out, err = b.Command(t, testbus.Nobody, "busctl", "--address="+b.Address, "introspect", Name,
		string(logControlPath)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "writable")
}
