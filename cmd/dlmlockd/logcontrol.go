package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/coreos/go-systemd/v22/journal"
)

// logIdentifier is the identifier of the log in the journal (journalctl -t).
const logIdentifier = "dlmlockd"

// The supported targets of org.freedesktop.LogControl1(5).
const (
	targetConsole = "console" // standard error
	targetJournal = "journal" // its native protocol, with fields
	targetAuto    = "auto"    // the journal, if standard error goes there
)

// logLevels are the levels of syslog(3), from the worst. slog's four levels are among them, and the
// others lie so that each logs what is at least as bad.
var logLevels = []struct {
	name  string
	level slog.Level
}{
	{"emerg", 20}, {"alert", 16}, {"crit", 12}, {"err", slog.LevelError}, {"warning", slog.LevelWarn},
	{"notice", 2}, {"info", slog.LevelInfo}, {"debug", slog.LevelDebug},
}

// logControl holds the level and the target of the log, which can change while the service runs. It
// implements dbus.LogControl.
type logControl struct {
	level     slog.LevelVar
	toJournal atomic.Bool // else to standard error

	auto      bool        // the journal is the target for "auto"
	available func() bool // whether there is a journal; a stand-in for tests
	handler   slog.Handler
	outlet    *outlet
}

// newLogControl makes a log that goes to the journal, with fields that journalctl can match, if
// standard error goes to the journal, and as text to stderr otherwise.
func newLogControl(stderr io.Writer, level slog.Level) *logControl {
	c := &logControl{available: journal.Enabled, outlet: newOutlet()}
	c.level.Set(level)
	if toJournal, err := journal.StderrIsJournalStream(); err == nil {
		c.auto = toJournal
	}
	c.toJournal.Store(c.auto)
	c.handler = c.handlerTo(c.outlet.writer(stderr), c.outlet.sender(journal.Send))
	direct := slog.New(c.handlerTo(stderr, journal.Send))
	c.outlet.dropped = func(n int) { direct.Warn("log lines dropped, the log is too slow", "lines", n) }
	return c
}

// handlerTo makes a handler that passes lines to text or to send, whichever is the target.
func (c *logControl) handlerTo(text io.Writer, send journalSend) slog.Handler {
	return &switchHandler{
		toJournal: &c.toJournal,
		journal:   newJournalHandler(&c.level, send),
		console:   slog.NewTextHandler(text, &slog.HandlerOptions{Level: &c.level}),
	}
}

func (c *logControl) logger() *slog.Logger { return slog.New(c.handler) }

// Level returns the name of the level: the mildest one that is logged. A level of slog that
// has no name of its own counts as the next worse one that has.
func (c *logControl) Level() string {
	at := c.level.Level()
	for _, l := range logLevels {
		if at >= l.level {
			return l.name
		}
	}
	return "debug"
}

// SetLevel sets the level by name.
func (c *logControl) SetLevel(name string) error {
	var names []string
	for _, l := range logLevels {
		if l.name == name {
			c.level.Set(l.level)
			return nil
		}
		names = append(names, l.name)
	}
	return fmt.Errorf("%q is not a log level; use one of %s", name, strings.Join(names, ", "))
}

// SyslogLevel returns the level as a number of syslog(3).
func (c *logControl) SyslogLevel() int {
	for n, l := range logLevels {
		if l.name == c.Level() {
			return n
		}
	}
	return len(logLevels) - 1
}

// SetSyslogLevel sets the level by its number.
func (c *logControl) SetSyslogLevel(n int) error {
	if n < 0 || n >= len(logLevels) {
		return fmt.Errorf("%d is not a log level; use 0 to %d", n, len(logLevels)-1)
	}
	return c.SetLevel(logLevels[n].name)
}

// Target returns the current target of the log.
func (c *logControl) Target() string {
	if c.toJournal.Load() {
		return targetJournal
	}
	return targetConsole
}

// SetTarget changes the target of the log.
func (c *logControl) SetTarget(name string) error {
	switch name {
	case targetConsole:
		c.toJournal.Store(false)
	case targetJournal:
		if !c.available() {
			return errors.New("there is no journal on this host; use console")
		}
		c.toJournal.Store(true)
	case targetAuto:
		c.toJournal.Store(c.auto)
	default:
		return fmt.Errorf("%q is not a log target here; use %s, %s or %s", name, targetConsole, targetJournal,
			targetAuto)
	}
	return nil
}

// Identifier returns the SYSLOG_IDENTIFIER of every entry.
func (c *logControl) Identifier() string { return logIdentifier }

// switchHandler passes records to one of two handlers, the one that is currently selected.
type switchHandler struct {
	toJournal        *atomic.Bool
	journal, console slog.Handler
}

func (h *switchHandler) now() slog.Handler {
	if h.toJournal.Load() {
		return h.journal
	}
	return h.console
}

// Enabled reports whether records of the level are logged.
func (h *switchHandler) Enabled(ctx context.Context, l slog.Level) bool {
	return h.now().Enabled(ctx, l)
}

// Handle logs one record.
func (h *switchHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.now().Handle(ctx, r)
}

// WithAttrs returns a handler that adds attrs to every record.
func (h *switchHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &switchHandler{h.toJournal, h.journal.WithAttrs(attrs), h.console.WithAttrs(attrs)}
}

// WithGroup returns a handler that puts name before the keys that follow.
func (h *switchHandler) WithGroup(name string) slog.Handler {
	return &switchHandler{h.toJournal, h.journal.WithGroup(name), h.console.WithGroup(name)}
}
