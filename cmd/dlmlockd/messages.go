package main

// messageIDs gives the messages that an administrator may have to act on an id
// (MESSAGE_ID= in systemd.journal-fields(7)), by their text, which never
// changes. data/dlmlockd.catalog explains each to "journalctl -x".
var messageIDs = map[string]string{
	"ready":          "27a3cdfdf1b947e89f9a2804a73d6ecd",
	"acquired":       "88b55be4318a4bf681188156fc4cd800",
	"converted":      "de7cca23b8864813bc621b6a3aba21c6",
	"released":       "ef92d1c22543477e8b2e9eba918c314f",
	"waited in vain": "8fde445a8af34b339b4ace0684b310ac",
	"orphan adopted": "d4370cb10c4e41c19d5d1fd0c797c328",
	"the history of the locks is not complete: there were too many lines": "31dea5a6dbbd4ea3b2cb71eb28939283",
	"lock lost":            "2f2fea20ee4043e2b85455e2a5854cec",
	"lockspace stopped":    "fcb9e2b9f2334605b8296568252cfadb",
	"lockspace not usable": "0542bf51dce8462b98c6c741463b12da",
	"state file can't be written, new locks are refused":                                              "4ec8b4dc023648a8b983491c90ad02a1",
	"state file can be written again":                                                                 "8383dbcd03ce4e52969e2fe3b3f031ae",
	"the service does not answer; the watchdog is not fed":                                            "d549115d4f1842d8a3820f8153c15020",
	"the configuration has mistakes; the one before stays in force":                                   "fd44a43ddff44de697639024f66459c9",
	"orphans that no record explains; list them, and adopt or remove each":                            "bc865414b133420b9b4d1a52b3d332d0",
	"the damaged state file is kept":                                                                  "4fee8b431e4e467aad9d3a46ecfc9e2e",
	"the state file is from before the last boot, its locks are gone":                                 "e915fc8bbb3d43fb81bf3ce588acd8fe",
	"lockspace was left and joined again, recorded locks in it are void":                              "00abc37d5a0845bdb12b961a5e50a90d",
	"can't tell whether a process that locks are tied to is alive; its locks are kept":                "5dd2d4b9fdc94bee99719a1bfe2f9c51",
	"the process that locks are tied to is alive":                                                     "11983411792e4fa7991ef79ca976ac72",
	"can't tell whether this node has left the lockspace; treating it as joined":                      "f530eba2887b4f2d8c58fefb57178f49",
	"the helper of a lost lock has failed":                                                            "f0496066e9ae4e79941344b274f0de30",
	"a helper for lost locks can't be run; nothing will be done for the locks that name it":           "3a1f6c0d9b5e4f6f8d0a7c2be41d9573",
	"no polkit on the bus: root and the configured group alone may change locks":                      "c982490cc1e444408e54731d6f070efc",
	"lockspace kept; the other nodes will fence this one":                                             "f7b47f23f5a04903b78a27d738567050",
	"nobody needs the service; it ends until the next call":                                           "d9571792ca194db085764776e845ed45",
	"the lockspace belongs to this service, but the state file that says who holds its locks is lost": "2ab6b3e078b147ed97534c80af4eeda2",
	"leaving the lockspace was abandoned; it stays joined":                                            "a99d6eafc48f45d69331cba594bf3846",
	"another program has made the lockspace again; it is not touched":                                 "be59385f35fc47a781fadb179368e32d",
}
