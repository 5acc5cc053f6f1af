//go:build race

package dbus

// manyRequests: the race detector makes everything ten times as slow.
const manyRequests = 2_000
