package onlost

import "github.com/dlmlock/dlmlockd/internal/message"

// The log messages of this package that have a MESSAGE_ID.
var (
	msgHelperFailed = message.New("f0496066e9ae4e79941344b274f0de30", "the helper of a lost lock has failed")
)
