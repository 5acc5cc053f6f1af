// Command soaker is a process with clients of the service, on a node of a soak:
//
//	soaker [-logbook FILE] [-varlink SOCKET] ... -node N CLIENT...
//	soaker -drift TICK
//
// A client is PAGE:DOOR:LIFETIME[:BATCH], with the number of its page in the logbook
// (package logbook), the door by which it reaches the service (varlink, dbus,
// driver, virtlockd), what ends its locks (persistent, connection, process), and how many
// locks it acquires and releases in one call (AcquireMany, ReleaseMany); without that
// number, it works on one or two locks. It follows the orders of its page, and goes on
// where an earlier process was killed.
//
// The second form sets by how many microseconds the system clock advances in a
// hundredth of a second: 10000 is right.
package main

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/lab/logbook"
)

// settings are the flags.
type settings struct {
	logbook    string // "": the device
	node       int
	lockspace  string
	resources  int
	bus        string
	varlink    string
	virtlockd  string
	lockdriver string // the program that plays libvirtd
	driver     string // dlmlock.so
	driverConf string
	drift      int64
}

func main() {
	var s settings
	flag.StringVar(&s.logbook, "logbook", "", "file of the logbook instead of the device")
	flag.IntVar(&s.node, "node", 1, "number of this node")
	flag.StringVar(&s.lockspace, "lockspace", "vms", "lockspace to work in")
	flag.IntVar(&s.resources, "resources", 32, "number of resources to work on")
	flag.StringVar(&s.bus, "bus", "unix:path=/run/dbus/system_bus_socket", "address of the bus")
	flag.StringVar(&s.varlink, "varlink", "/run/dlmlock/org.example.DlmLock", "socket of the service")
	flag.StringVar(&s.virtlockd, "virtlockd", "/run/libvirt/virtlockd-sock", "socket of the service for libvirt")
	flag.StringVar(&s.lockdriver, "lockdriver", "/usr/local/bin/lockdriver", "program that loads the lock driver")
	flag.StringVar(&s.driver, "driver", "/usr/local/lib/dlmlock.so", "lock driver")
	flag.StringVar(&s.driverConf, "driver-conf", "/etc/libvirt/qemu-dlmlock.conf", "configuration of the lock driver")
	flag.Int64Var(&s.drift, "drift", 0, "microseconds of a hundredth of a second")
	flag.Parse()
	if err := run(&s, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "soaker:", err)
		os.Exit(1)
	}
}

func run(s *settings, clients []string) error {
	if s.drift != 0 {
		_, err := unix.Adjtimex(&unix.Timex{Modes: unix.ADJ_TICK, Tick: s.drift})
		return err
	}
	if s.logbook == "" {
		var err error
		if s.logbook, err = logbook.Device(); err != nil {
			return err
		}
	}
	l, err := logbook.Open(s.logbook)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for _, text := range clients {
		c, err := newClient(s, l, text)
		if err != nil {
			return err
		}
		all.Go(c.work)
	}
	all.Wait()
	return nil
}

func newClient(s *settings, l *logbook.Logbook, text string) (*client, error) {
	words := strings.Split(text, ":")
	if len(words) != 3 && len(words) != 4 {
		return nil, fmt.Errorf("%q is not PAGE:DOOR:LIFETIME[:BATCH]", text)
	}
	number, err := strconv.Atoi(words[0])
	if err != nil || number < 0 || number >= logbook.MaxClients {
		return nil, fmt.Errorf("%q: no page has the number %q", text, words[0])
	}
	open, ok := doors[words[1]]
	if !ok {
		return nil, fmt.Errorf("%q: there is no door %q", text, words[1])
	}
	batch := 0
	if len(words) == 4 {
		if batch, err = strconv.Atoi(words[3]); err != nil || batch < 1 || batch >= batchResources*s.resources {
			return nil, fmt.Errorf("%q: a batch has from 1 to %d locks", text, batchResources*s.resources-1)
		}
	}
	return &client{settings: s, batch: batch, logbook: l, page: l.Page(number), number: number, door: words[1],
		lifetime: words[2], open: open}, nil
}
