// Package config reads the daemon's configuration file, /etc/dlmlockd.toml.
//
// It owns the keys of the file, their types, bounds and defaults, and locates every mistake: file,
// line, column and key. An unknown key is a mistake, because a misspelt limit would otherwise be no
// limit at all.
//
// What the file says is done as the user of the service. So this package also decides whether the
// file, and the program of a helper, can be trusted: nobody else may be able to change them. And it
// never waits for what it reads, nor reads more than such a file can have.
//
// It does not know what the settings are used for, nor the command line, nor other TOML files (the
// state file belongs to package state).
//
// Concurrency: Load and Parse are functions without state; a Config is plain data.
package config
