package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// shimName, as the name of the program, makes it a shim: a process that a lock can be
// tied to, and that becomes the command once the lock is held. execve(2) keeps pid and
// start time, so it stays the same process.
const shimName = "dlmlockctl: waiting for the lock"

// The main goroutine stays on the main thread, so the shim's execve is that of the
// thread group leader.
func init() { runtime.LockOSThread() }

// shim never returns. Its arguments are the number of the descriptor from which it
// reads the environment of the command, the path of the program, and the program's
// whole argument vector. If the descriptor is closed with nothing written, the program
// that started the shim has given up or has ended.
func shim() {
	if len(os.Args) < 4 {
		os.Exit(exitOK) // nobody waits for the exit code
	}
	pipe, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(exitOK)
	}
	unix.CloseOnExec(pipe)
	var env []string
	if err := json.NewDecoder(os.NewFile(uintptr(pipe), "pipe")).Decode(&env); err != nil {
		os.Exit(exitOK)
	}
	path := os.Args[2]
	err = syscall.Exec(path, os.Args[3:], changed(os.Environ(), env))
	fmt.Fprintf(os.Stderr, "dlmlockctl: %s: %v\n", path, err)
	os.Exit(exitNoExec)
}

// changed returns an environment with changes: NAME=VALUE replaces every other value of
// NAME, since some programs take the first of several and some the last; a NAME alone
// is removed.
func changed(env, changes []string) []string {
	var out []string
	name := func(s string) string { n, _, _ := strings.Cut(s, "="); return n }
	touched := map[string]bool{}
	for _, c := range changes {
		touched[name(c)] = true
	}
	for _, e := range env {
		if !touched[name(e)] {
			out = append(out, e)
		}
	}
	for _, c := range changes {
		if strings.Contains(c, "=") {
			out = append(out, c)
		}
	}
	return out
}
