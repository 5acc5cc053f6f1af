// Package scale computes what the kernel's DLM does in a cluster that is larger than the lab can
// boot: which node is the directory of a resource, how many messages a request takes, and what is
// sent when a node leaves a lockspace.
//
// It owns the arithmetic, which follows fs/dlm of Linux 6.12, and the placement of many locks on
// many nodes, which comes from the simulated cluster of package dlm/local. It knows neither time nor
// networks: how long anything takes is measured on real nodes (BenchmarkScale), whose kernels also
// say how many names and locks they sent, and that is compared with what this package computes.
//
// Concurrency: functions of their arguments, without shared state.
package scale
