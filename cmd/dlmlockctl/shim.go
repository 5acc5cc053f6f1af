package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// shimName as the name of the program makes it a shim: a process that exists,
// so that a lock can hang on it, and becomes the command once the lock is
// there. It stays the same process: pid and start time don't change by
// execve(2).
const shimName = "dlmlockctl: waiting for the lock"

// shimPipe is the descriptor that says go. When it is closed without that,
// whoever started the shim has given up or is gone.
const shimPipe = 3

// The main goroutine stays on the main thread, so that the shim's execve is the
// thread group leader's own.
func init() { runtime.LockOSThread() }

// shim never returns. Its arguments are the path of the program and the
// program's whole argument vector.
func shim() {
	unix.CloseOnExec(shimPipe)
	var env []string
	if err := json.NewDecoder(os.NewFile(shimPipe, "pipe")).Decode(&env); err != nil || len(os.Args) < 3 {
		os.Exit(exitOK) // nobody waits for the answer
	}
	path := os.Args[1]
	err := syscall.Exec(path, os.Args[2:], append(os.Environ(), env...))
	fmt.Fprintf(os.Stderr, "dlmlockctl: %s: %v\n", path, err)
	os.Exit(exitNoExec)
}
