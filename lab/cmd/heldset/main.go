// Command heldset is what runs on the nodes in the test of what a lock protects
// (lab/heldset_test.go): clients that add elements to a set, each by reading it and
// writing it back under a lock.
//
//	heldset client NAME SOCKET TOOL...   runs TOOL... again and again; TOOL takes the
//	                                     lock and runs "heldset update" under it
//	heldset update SOCKET COUNT          reads the set and writes it back with one
//	                                     element more, COUNT times
//	heldset guard COMMAND...             runs a command under a lock of etcdctl, and kills
//	                                     it when etcd no longer has the lock
//
// The set is on neither node: a client passes what its updater asks on to its standard
// output, and gets the answers from its standard input. That is the network of the
// storage, which stands when that of the cluster is cut. It owns no decision about
// faults; the test has them, and sends signals through the client.
//
// Concurrency: a client has one updater at a time; a goroutine reads what the test
// says, one serves the updater, and one runs the tool.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
)

// Message is a line between the test, a client and its updater.
type Message struct {
	// Op is "get", "put" or "over" (the updater has ended) from a client, "answer",
	// "stop", "cont", "kill" or "killtool" from the test.
	Op    string `json:"op"`
	Token string `json:"token,omitempty"` // the fencing token of the lock
	Text  string `json:"text,omitempty"`  // the set, an element on each line
	Error string `json:"error,omitempty"` // why it was refused, or how the tool ended
	// Hold numbers the updaters of a client: an answer for one that has ended is not for
	// the next one.
	Hold int `json:"hold,omitempty"`
}

func main() {
	if len(os.Args) < 3 {
		fail(errors.New("usage: heldset client, update or guard, and their arguments"))
	}
	var err error
	switch args := os.Args[2:]; os.Args[1] {
	case "client":
		err = runClient(args[0], args[1], args[2:])
	case "update":
		err = update(args[0], args[1])
	case "guard":
		err = guard(args)
	default:
		err = fmt.Errorf("no command %q", os.Args[1])
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "heldset:", err)
	os.Exit(1)
}

// update adds its elements. The lock's tool says in its environment which token the
// lock has.
func update(socket, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	token := os.Getenv("DLMLOCK_TOKEN")
	if token == "" {
		token = os.Getenv("ETCD_LOCK_REV")
	}
	in, out := json.NewDecoder(bufio.NewReader(conn)), json.NewEncoder(conn)
	for i := range n {
		ask := func(m Message) (answer Message, err error) {
			if err := out.Encode(m); err != nil {
				return answer, err
			}
			err = in.Decode(&answer)
			return answer, err
		}
		set, err := ask(Message{Op: "get", Token: token})
		if err != nil {
			return err
		}
		if set.Error != "" {
			return fmt.Errorf("refused: %s", set.Error)
		}
		element := fmt.Sprintf("%s.%d.%d\n", os.Getenv("HELDSET_NAME"), os.Getpid(), i)
		written, err := ask(Message{Op: "put", Token: token, Text: set.Text + element})
		if err != nil {
			return err
		}
		if written.Error != "" {
			return fmt.Errorf("refused: %s", written.Error)
		}
	}
	return nil
}
