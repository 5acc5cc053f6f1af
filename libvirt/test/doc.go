// Package test holds the tests of the lock driver for libvirt: a program that
// plays libvirtd (libvirt/driver), built with the address and undefined behaviour
// sanitizers, loads the driver and calls it as libvirtd does, against a real bus
// and the real dlmlockd with the embedded engine.
//
// It owns what the driver promises to libvirtd. It refuses to know libvirt itself
// and QEMU. Concurrency: each test has a bus, a service and a program of its own.
package test
