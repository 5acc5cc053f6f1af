// Command dlmpeer offers the kernel's DLM of the machine that it runs on over
// its standard input and output, to a peer.Client at the other end. It is how
// tests on the host run processes on the nodes of the lab.
package main

import (
	"log/slog"
	"os"

	"github.com/dlmlock/dlmlockd/dlm/libdlm"
	"github.com/dlmlock/dlmlockd/lab/peer"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	engine, err := libdlm.New(log)
	if err == nil {
		err = peer.Serve(engine, os.Stdin, os.Stdout)
	}
	if err != nil {
		log.Error("dlmpeer", "err", err)
		os.Exit(1)
	}
}
