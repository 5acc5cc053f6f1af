// Package frontend is what every front end ("door") of the lock service needs
// and none of them should write again.
//
// It owns the sessions and their names, the order of a session's calls, the
// limits and fair turns of users, the methods with their validation and
// authorisation, the options with their kinds, and the gate that is closed at
// shutdown. It refuses to know how a message looks on the wire, how a door
// spells an option, a method or an error, and who holds which lock: a door
// decodes a message into one of the method structs, submits it, and encodes the
// typed result or the api.Error that comes back.
//
// The way of a call: the door's reader fills in a method struct and gives it to
// Session.Submit, which validates it and puts it in the session's call queue,
// or refuses it. One goroutine for each busy session learns the credentials,
// waits for the user's turn (scheduler.go) and has the door serve the calls in
// the order in which they came; Run of the method authorises and calls the
// service. A slow authorisation therefore holds up nobody else. The answer comes on the
// service's goroutine, and the door writes it.
//
// Concurrency: all exported methods may be called from any goroutine, and none
// blocks unless its comment says so.
package frontend
