// Package conventions has the tests of what everybody who changes this
// repository agrees on: which package may import which, what must be
// documented, how long a file may be, and that the files around the programs
// (unit, scripts, documentation) say what is true.
//
// It owns the rules and no code. It refuses to know what a package does.
//
// Concurrency: tests only.
package conventions
