// Command dlmlockctl is the command-line client of dlmlockd.
//
// It owns what a person or a script sees: arguments, tables, JSON, exit codes,
// and the life of the command that "run" starts. It refuses to know D-Bus and
// locks beyond package client.
//
// Concurrency: one command per process. Helper goroutines (progress, events,
// signals) end before the command does.
package main
