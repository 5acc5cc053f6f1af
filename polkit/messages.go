package polkit

import "github.com/dlmlock/dlmlockd/internal/message"

// The log messages of this package that have a MESSAGE_ID.
var (
	msgNoPolkit = message.New("c982490cc1e444408e54731d6f070efc",
		"no polkit on the bus: root and the configured group alone may change locks")
)
