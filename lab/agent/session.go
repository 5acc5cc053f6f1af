package agent

import (
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// yamuxConfig is made for an emulated node on a busy machine: no keep-alive,
// because a node that is not scheduled for half a minute is slow, not gone,
// and the end of its QEMU closes the stream anyway.
func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = 5 * time.Minute
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = 5 * time.Minute
	c.MaxStreamWindowSize = 1 << 20
	c.LogOutput = io.Discard
	return c
}
