package api

import "strings"

// Session names what the calls of one client belong to, for as long as the client
// stays: a connection. Locks of lifetime connection end with it.
//
// It is DOOR:INSTANCE/NAME, for example "dbus:0123456789abcdef0123456789abcdef/:1.5".
// DOOR is the front end; INSTANCE tells the name space in which NAME is unique, such
// as the GUID of a bus. So no front end can mistake a session of another one, or of
// a bus that was restarted since, for one of its own. "" is no session.
type Session string

// MakeSession makes the name of a session. door and instance are without "/".
func MakeSession(door, instance, name string) Session {
	return Session(door + ":" + instance + "/" + name)
}

// In returns the name of the session in a name space, and whether it is one of it.
// The name space is a session with an empty name.
func (s Session) In(space Session) (name string, ok bool) {
	return strings.CutPrefix(string(s), string(space))
}

// busDoor is the front end whose sessions a record of the state file splits into
// the unique name and the GUID of the bus.
const busDoor = "dbus:"

// Recorded returns the two fields in which a record of the state file keeps the
// session: sender and bus-id. Those of the message bus are in both; others have no
// bus-id, and sender is the whole name.
func (s Session) Recorded() (sender, busID string) {
	rest, ok := strings.CutPrefix(string(s), busDoor)
	if !ok {
		return string(s), ""
	}
	busID, sender, ok = strings.Cut(rest, "/")
	if !ok || busID == "" {
		return string(s), ""
	}
	return sender, busID
}

// RecordedSession returns the session that a record of the state file tells of.
func RecordedSession(sender, busID string) Session {
	if sender == "" || busID == "" {
		return Session(sender)
	}
	return MakeSession("dbus", busID, sender)
}
