// Package model holds the order of events of docs/design.md, section 4, as a model for spin(1): order.pml. Its tests
// have spin look at every interleaving of it, check that it finds each mistake that README.md lists, and hold the
// model's steps against those of lockd/table.
//
// It owns the model and nothing that ships, and knows of the code only the names of steps and the tables in the head
// comments. It has no goroutines.
package model
