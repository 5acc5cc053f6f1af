package main

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/dlmlock/dlmlockd/internal/message"
)

// journalSend is journal.Send or a stand-in for it.
type journalSend func(message string, priority journal.Priority, fields map[string]string) error

// journalFields maps the keys that the service logs to fields of the journal. Other keys become
// DLMLOCKD_ and the key in upper case.
var journalFields = map[string]string{
	"lockspace": "DLM_LOCKSPACE",
	"resource":  "DLM_RESOURCE",
	"mode":      "DLM_MODE",
	"lkid":      "DLM_LKID",
	"owner":     "DLM_OWNER",
	"node":      "DLM_NODE",
	"session":   "CALLER_SESSION",
	"uid":       "CALLER_UID",
	"err":       "DLM_ERROR",
}

// journalHandler is a slog.Handler that sends each record to the journal in two forms: as one
// readable line, and as fields.
type journalHandler struct {
	send  journalSend
	level slog.Leveler

	// prefix names the open groups for fields.
	prefix string
	fields map[string]string // of WithAttrs

	// All handlers that come from one share a buffer: a text handler writes into what it was
	// made with, also after WithAttrs.
	mu   *sync.Mutex // guards line and the writes of text to it
	line *bytes.Buffer
	text slog.Handler
}

func newJournalHandler(level slog.Leveler, send journalSend) *journalHandler {
	line := new(bytes.Buffer)
	text := slog.NewTextHandler(line, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			// The journal keeps time and level itself, and the message is at the beginning of the
			// line.
			if len(groups) == 0 && slices.Contains([]string{slog.TimeKey, slog.LevelKey, slog.MessageKey}, a.Key) {
				return slog.Attr{}
			}
			return a
		},
	})
	return &journalHandler{send: send, level: level, mu: new(sync.Mutex), line: line, text: text}
}

// Enabled reports whether records of the level are sent.
func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

// Handle sends one record. Whoever logs on the owner's behalf does so on the log's own goroutine
// (lockd), so a slow journald delays nobody.
func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	fields := make(map[string]string, len(h.fields)+r.NumAttrs()+1)
	// The native protocol adds none, and "journalctl -t" needs it.
	fields["SYSLOG_IDENTIFIER"] = logIdentifier
	if id := message.ID(r.Message); id != "" {
		fields["MESSAGE_ID"] = id
	}
	for k, v := range h.fields {
		fields[k] = v
	}
	r.Attrs(func(a slog.Attr) bool {
		addField(fields, h.prefix, a)
		return true
	})
	h.mu.Lock()
	h.line.Reset()
	err := h.text.Handle(ctx, r)
	line := strings.TrimSpace(r.Message + " " + strings.TrimSuffix(h.line.String(), "\n"))
	h.mu.Unlock()
	if err != nil {
		return err
	}
	return h.send(line, priority(r.Level), fields)
}

// WithAttrs returns a handler that adds attrs to every record.
func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	n.fields = make(map[string]string, len(h.fields)+len(attrs))
	for k, v := range h.fields {
		n.fields[k] = v
	}
	for _, a := range attrs {
		addField(n.fields, h.prefix, a)
	}
	n.text = h.text.WithAttrs(attrs)
	return &n
}

// WithGroup returns a handler that puts name before the keys that follow.
func (h *journalHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	n := *h
	n.prefix = h.prefix + name + "_"
	n.text = h.text.WithGroup(name)
	return &n
}

// addField adds an attribute as a field, and a group as one field for each of its members. Only
// keys outside of groups are those that the service's messages have in common.
func addField(fields map[string]string, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "_"
		}
		for _, g := range v.Group() {
			addField(fields, prefix, g)
		}
		return
	}
	if a.Key == "" {
		return
	}
	name, known := journalFields[a.Key]
	if !known || prefix != "" {
		name = fieldName(prefix + a.Key)
	}
	fields[name] = v.String()
}

// fieldName turns a key into a valid name of a journal field: upper case letters, digits and
// underscores (systemd.journal-fields(7)).
func fieldName(key string) string {
	return "DLMLOCKD_" + strings.Map(func(r rune) rune {
		r = unicode.ToUpper(r)
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, key)
}

// priority returns the level as syslog(3) has it; journalctl -p goes by it.
func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
