// Package guest is what a lab node does by itself: it boots, from the first
// instruction of its init to a running agent.
//
// It owns the node's file systems, its address and its process 1. The root is
// the host's own root, read-only over 9p, under an overlay in memory: whatever
// is built or installed on the host is in the node, and nothing that the node
// writes reaches the host.
//
// It refuses to know what the node is for: corosync, the DLM and everything
// else are started by the host through the agent.
//
// Concurrency: Init and Reap are a whole process each. Serve runs one.
package guest
