package main

import (
	"bytes"
	"log/slog"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/message"
)

type entry struct {
	message  string
	priority journal.Priority
	fields   map[string]string
}

func journalTo(sent *[]entry) journalSend {
	return func(m string, p journal.Priority, f map[string]string) error {
		*sent = append(*sent, entry{m, p, f})
		return nil
	}
}

func TestJournalFields(t *testing.T) {
	var sent []entry
	log := slog.New(newJournalHandler(slog.LevelInfo, journalTo(&sent)))
	log.Debug("not sent")
	log.With("lockspace", "vms").Warn("lock lost", "resource", "disk 1", "lkid", 7, "uid", uint32(1000), "took-ms", 3)
	log.WithGroup("start").Error("cannot go on", "err", "no bus", slog.Group("in", "lockspace", "x"))
	log.Info("ready")
	require.Equal(t, []entry{
		{
			`lock lost lockspace=vms resource="disk 1" lkid=7 uid=1000 took-ms=3`, journal.PriWarning,
			map[string]string{"SYSLOG_IDENTIFIER": "dlmlockd", "MESSAGE_ID": message.ID("lock lost"),
				"DLM_LOCKSPACE": "vms", "DLM_RESOURCE": "disk 1", "DLM_LKID": "7", "CALLER_UID": "1000",
				"DLMLOCKD_TOOK_MS": "3"},
		},
		{
			`cannot go on start.err="no bus" start.in.lockspace=x`, journal.PriErr,
			map[string]string{"SYSLOG_IDENTIFIER": "dlmlockd", "DLMLOCKD_START_ERR": "no bus",
				"DLMLOCKD_START_IN_LOCKSPACE": "x"},
		},
		{"ready", journal.PriInfo, map[string]string{"SYSLOG_IDENTIFIER": "dlmlockd",
			"MESSAGE_ID": message.ID(msgReady.String())}},
	}, sent)
}

func TestJournalHandlersShareNoFields(t *testing.T) {
	var sent []entry
	base := slog.New(newJournalHandler(slog.LevelInfo, journalTo(&sent))).With("lockspace", "a")
	one, two := base.With("owner", "one"), base.With("owner", "two")
	one.Info("x")
	two.Info("x")
	base.Info("x")
	require.Equal(t, "x lockspace=a owner=one", sent[0].message)
	require.Equal(t, map[string]string{"SYSLOG_IDENTIFIER": "dlmlockd", "DLM_LOCKSPACE": "a", "DLM_OWNER": "two"},
		sent[1].fields)
	require.Equal(t, map[string]string{"SYSLOG_IDENTIFIER": "dlmlockd", "DLM_LOCKSPACE": "a"}, sent[2].fields)
}

func TestTextLog(t *testing.T) {
	var b bytes.Buffer
	c := newLogControl(&b, slog.LevelInfo)
	c.logger().Info("hello", "lockspace", "vms")
	c.outlet.flush()
	require.Contains(t, b.String(), `level=INFO msg=hello lockspace=vms`)
}

// What systemctl service-log-level and service-log-target do.
func TestLogControl(t *testing.T) {
	var text bytes.Buffer
	var sent []entry
	c := newLogControl(&text, slog.LevelInfo)
	c.handler.(*switchHandler).journal = newJournalHandler(&c.level, journalTo(&sent))
	c.available = func() bool { return false }
	log := c.logger().With("lockspace", "vms")
	require.Equal(t, []string{"info", "console", "dlmlockd"}, []string{c.Level(), c.Target(), c.Identifier()})

	for _, l := range logLevels {
		require.NoError(t, c.SetLevel(l.name))
		require.Equal(t, l.name, c.Level())
	}
	log.Debug("one")
	c.outlet.flush()
	require.Contains(t, text.String(), "msg=one lockspace=vms")
	require.NoError(t, c.SetLevel("crit"))
	text.Reset()
	log.Error("two")
	require.Empty(t, text.String())
	require.EqualError(t, c.SetLevel("loud"),
		`"loud" is not a log level; use one of emerg, alert, crit, err, warning, notice, info, debug`)

	require.EqualError(t, c.SetTarget("journal"), "there is no journal on this host; use console")
	c.available = func() bool { return true }
	require.NoError(t, c.SetLevel("info"))
	require.NoError(t, c.SetTarget("journal"))
	require.Equal(t, "journal", c.Target())
	log.Info("three")
	require.Empty(t, text.String())
	require.Equal(t, "three lockspace=vms", sent[0].message)
	require.NoError(t, c.SetTarget("auto"))
	require.Equal(t, "console", c.Target())
	require.EqualError(t, c.SetTarget("kmsg"), `"kmsg" is not a log target here; use console, journal or auto`)
}
