package libdlm

import "github.com/dlmlock/dlmlockd/internal/message"

// The log messages of this package that have a MESSAGE_ID.
var (
	msgLeftUnknown = message.New("f530eba2887b4f2d8c58fefb57178f49",
		"can't tell whether this node has left the lockspace; treating it as joined")
)
