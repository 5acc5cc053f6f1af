package main

import "github.com/dlmlock/dlmlockd/internal/message"

// The log messages of this package that have a MESSAGE_ID, by which journalctl shows an
// explanation (data/dlmlockd.catalog) and monitoring finds them. An id stays when the text is reworded.
var (
	msgReady        = message.New("27a3cdfdf1b947e89f9a2804a73d6ecd", "ready")
	msgNotAnswering = message.New("d549115d4f1842d8a3820f8153c15020",
		"the service does not answer; the watchdog is not fed")
	msgConfigurationWrong = message.New("fd44a43ddff44de697639024f66459c9",
		"the configuration has mistakes; the one before stays in force")
	msgHelperUnusable = message.New("3a1f6c0d9b5e4f6f8d0a7c2be41d9573",
		"a helper for lost locks can't be run; nothing will be done for the locks that name it")
	msgLockspaceKept = message.New("f7b47f23f5a04903b78a27d738567050",
		"lockspace kept; the other nodes will fence this one")
	msgNotNeeded = message.New("d9571792ca194db085764776e845ed45",
		"nobody needs the service; it ends until the next call")
)
