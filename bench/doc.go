// Package bench measures what the service costs, each time against a floor in the same run: the
// same bus without the service, few locks instead of many, a bare write instead of a record. "make
// bench" runs it and writes docs/benchmarks.md.
//
// It owns the measurements and the table. It does not know how anything is implemented, and passes
// or fails nothing, because machines differ.
//
// Concurrency: one measurement at a time.
package bench
