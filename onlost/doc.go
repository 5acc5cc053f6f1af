// Package onlost runs the programs ("helpers") that the administrator has configured for lost
// locks.
//
// It owns what a helper gets: its arguments, which come only from the configuration, its
// environment, which holds everything that came from a client, a process group of its own, and a
// bounded time. It bounds how many helpers run at once, and runs those of one owner one after the
// other, because they act on the same thing.
//
// It does not know why a lock was lost or who may name which helper; recording a run, and repeating
// it after a crash, is lockd's business.
//
// Concurrency: the methods of Runner may be called from any goroutine. Run never blocks; each run
// has a goroutine of its own.
package onlost
