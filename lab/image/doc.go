// Package image makes what a lab node boots: a Debian kernel and an initramfs.
//
// It owns the cache directory: kernel packages as downloaded, their unpacked
// trees, the built agent and the initramfs files, which are named after their
// content. Nothing is installed on the host.
//
// It refuses to know how a node is started and what it does after its init.
//
// Concurrency: Prepare must not run twice at the same time on one cache; the
// lab holds its lock file meanwhile.
package image
