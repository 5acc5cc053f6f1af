// Fencedstore is an example: a block store over HTTP that checks the fencing tokens of dlmlockd, so
// a client that has lost its lock without noticing can't overwrite what the next holder has
// written. docs/tokens.md explains it.
//
// It owns the blocks and the largest token that it has seen for each. It does not know who holds a
// lock: the token says enough.
//
// Concurrency: requests may come at the same time; those for one store take turns.
//
//	fencedstore --listen=127.0.0.1:8080 --dir=/srv/blocks
//	curl -X PUT -H "Fencing-Token: $token" --data-binary @disk http://127.0.0.1:8080/blocks/disk1
package main

import (
	"flag"
	"log"
	"net/http"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address to serve on")
	dir := flag.String("dir", "", "directory of the blocks; it must exist")
	flag.Parse()
	if *dir == "" {
		log.Fatal("fencedstore: say where the blocks are kept: --dir=DIRECTORY")
	}
	s, err := OpenStore(*dir)
	if err != nil {
		log.Fatalf("fencedstore: %v", err)
	}
	server := &http.Server{Addr: *listen, Handler: s.Handler(), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}
