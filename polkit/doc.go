// Package polkit is an api.Authorizer that asks polkitd
// (org.freedesktop.PolicyKit1.Authority, see polkit(8)), about callers on the
// message bus and, by their processes, about others.
//
// It owns the question and what its answers mean: which polkit action an
// api.Action is, when a person may be asked, when to stop asking, and what
// holds while no polkitd is on the bus. It refuses to know locks, who calls
// for what reason, and how the actions are configured: those are
// data/org.example.DlmLock.policy and the administrator's rules.
//
// Concurrency: an Authority may be used by any number of goroutines. Each
// question waits on its own; nothing is cached, so a changed rule and a polkitd that
// comes or goes count from the next question on.
package polkit
