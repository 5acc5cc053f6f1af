package table

import "github.com/dlmlock/dlmlockd/internal/message"

// The log messages of this package that have a MESSAGE_ID.
var (
	msgAcquired          = message.New("88b55be4318a4bf681188156fc4cd800", "acquired")
	msgConverted         = message.New("de7cca23b8864813bc621b6a3aba21c6", "converted")
	msgReleased          = message.New("ef92d1c22543477e8b2e9eba918c314f", "released")
	msgWaitedInVain      = message.New("8fde445a8af34b339b4ace0684b310ac", "waited in vain")
	msgOrphanAdopted     = message.New("d4370cb10c4e41c19d5d1fd0c797c328", "orphan adopted")
	msgHistoryIncomplete = message.New("31dea5a6dbbd4ea3b2cb71eb28939283",
		"the history of the locks is not complete: there were too many lines")
	msgLockLost           = message.New("2f2fea20ee4043e2b85455e2a5854cec", "lock lost")
	msgLockspaceStopped   = message.New("fcb9e2b9f2334605b8296568252cfadb", "lockspace stopped")
	msgLockspaceNotUsable = message.New("0542bf51dce8462b98c6c741463b12da", "lockspace not usable")
	msgStateNotWritable   = message.New("4ec8b4dc023648a8b983491c90ad02a1",
		"state file can't be written, new locks are refused")
	msgStateWritable = message.New("8383dbcd03ce4e52969e2fe3b3f031ae", "state file can be written again")
	msgOrphansFound  = message.New("bc865414b133420b9b4d1a52b3d332d0",
		"orphans that no record explains; list them, and adopt or remove each")
	msgBootedSince = message.New("e915fc8bbb3d43fb81bf3ce588acd8fe",
		"the state file is from before the last boot, its locks are gone")
	msgJoinedAgain = message.New("00abc37d5a0845bdb12b961a5e50a90d",
		"lockspace was left and joined again, recorded locks in it are void")
	msgProcessUnknown = message.New("5dd2d4b9fdc94bee99719a1bfe2f9c51",
		"can't tell whether a process that locks are tied to is alive; its locks are kept")
	msgProcessAlive = message.New("11983411792e4fa7991ef79ca976ac72", "the process that locks are tied to is alive")
	msgMapLost      = message.New("2ab6b3e078b147ed97534c80af4eeda2",
		"the lockspace belongs to this service, but the state file that says who holds its locks is lost")
	msgLeaveAbandoned = message.New("a99d6eafc48f45d69331cba594bf3846",
		"leaving the lockspace was abandoned; it stays joined")
	msgMadeAgain = message.New("be59385f35fc47a781fadb179368e32d",
		"another program has made the lockspace again; it is not touched")
)
