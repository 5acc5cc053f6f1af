// Command dlmlockctl is the command-line client of dlmlockd.
//
// It owns what people and scripts see: arguments, tables, JSON, messages, exit
// codes, and the life of the command that "run" starts. It reaches the service
// only through package client, and knows nothing of D-Bus beyond that.
//
// Concurrency: each process runs one command. Goroutines that it starts for
// progress, events and signals end before the command does.
package main
