// Package conventions holds the tests of this repository's conventions: which package may import
// which, how long files, functions and lines may be, and that the files around the programs (units,
// scripts, packages, documents) are sound and name only what exists.
package conventions
