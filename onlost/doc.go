// Package onlost runs the programs that the administrator has configured for
// locks that are lost ("helpers").
//
// It owns what a helper gets: its arguments, which come from the configuration
// alone, its environment, which is where all words of a client go, a process
// group of its own, and a bounded time. It bounds how many helpers run at once,
// and runs those of one owner one after the other, because they act on the same
// thing.
//
// It refuses to know why a lock was lost, who may name which helper, and that a
// run is written down and made again after a crash: all that is lockd's.
//
// Concurrency: the methods of Runner may be called from any goroutine. Run never
// blocks; each run has a goroutine of its own.
package onlost
