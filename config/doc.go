// Package config reads the daemon's configuration file, /etc/dlmlockd.toml.
//
// It owns the keys of the file, their types, their bounds and their defaults,
// and says of every mistake where it stands: file, line, column and key. An
// unknown key is a mistake, because a misspelt limit would otherwise be no
// limit at all.
//
// What stands in the file is done as the user of the service, so it also owns
// whether a file, or the program of a helper, may be trusted: nobody else can
// change it. And it never waits for what it reads, nor takes more than a file of
// that kind can have.
//
// It refuses to know what the settings are used for, the command line, and
// everything else that is TOML (the state file is package state's).
//
// Concurrency: Load and Parse are functions without state; a Config is plain
// data.
package config
