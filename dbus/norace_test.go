//go:build !race

package dbus

// manyRequests is how many Requests the tests let wait.
const manyRequests = 10_000
