// Command labagent is the only program of the lab that runs inside a node. By
// its name and first argument it is
//
//	/init            process 1 of the initramfs
//	labagent reap    process 1 of a node without systemd
//	labagent serve   the agent that runs commands for the host
//	labagent ask OP [ARG...]   a question to the host
//	fence            the fence agent that dlm.conf names
//
// It owns nothing but this choice; package guest does the work. It runs
// nowhere else and needs no concurrency rule.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/dlmlock/dlmlockd/lab/guest"
)

func main() {
	if os.Getpid() == 1 && len(os.Args) == 1 {
		guest.Init()
		return
	}
	if err := run(os.Args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

func run(argv []string) error {
	if filepath.Base(argv[0]) == filepath.Base(guest.FencePath) {
		return guest.Fence(os.Stdin, guest.AskSocket)
	}
	if len(argv) < 2 {
		return errors.New("usage: labagent reap|serve|ask")
	}
	switch argv[1] {
	case "reap":
		return guest.Reap()
	case "serve":
		return guest.Serve()
	case "ask":
		if len(argv) < 3 {
			return errors.New("usage: labagent ask OP [ARG...]")
		}
		text, err := guest.Ask(guest.AskSocket, argv[2], argv[3:]...)
		fmt.Print(text)
		return err
	default:
		return fmt.Errorf("unknown command %q", argv[1])
	}
}
