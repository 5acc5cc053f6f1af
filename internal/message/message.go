// Package message owns the log messages that an administrator may have to act on.
// Each has an id (MESSAGE_ID= in systemd.journal-fields(7)), by which
// data/dlmlockd.catalog explains it to "journalctl -x". Text and id are defined
// together, where the message is logged, so the text may be reworded at any time; the
// id never changes.
//
// It refuses to know what the messages say and where they go.
//
// Concurrency: New is for package-level variables, so nothing changes after the
// program has begun, and everything may be called from any goroutine.
package message

import "maps"

// Message is a message with an id.
type Message struct{ text string }

var ids = map[string]string{} // by text

// New defines a message.
func New(id, text string) Message {
	if ids[text] != "" {
		panic("two messages say " + text)
	}
	ids[text] = id
	return Message{text}
}

// String is the text, for the logger.
func (m Message) String() string { return m.text }

// ID is the id of a message by its text, or "" if it has none.
func ID(text string) string { return ids[text] }

// All are the ids of all messages of this program, by their texts.
func All() map[string]string { return maps.Clone(ids) }
