// Package config reads the daemon's configuration file, /etc/dlmlockd.toml.
//
// It owns the keys of the file, their types, their bounds and their defaults,
// and says of every mistake where it stands: file, line, column and key. An
// unknown key is a mistake, because a misspelt limit would otherwise be no
// limit at all.
//
// It refuses to know what the settings are used for, the command line, and
// everything else that is TOML (the state file is package state's).
//
// Concurrency: Load and Parse are functions without state; a Config is plain
// data.
package config
