package state

import "github.com/dlmlock/dlmlockd/internal/message"

// The log messages of this package that have a MESSAGE_ID.
var (
	msgDamagedFileKept = message.New("4fee8b431e4e467aad9d3a46ecfc9e2e", "the damaged state file is kept")
)
