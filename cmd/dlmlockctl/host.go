package main

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// host is the files that tell about this node. root is "/", except in tests.
type host struct{ root string }

func (h host) path(name string) string { return filepath.Join(h.root, name) }

// cluster checks what the kernel's DLM needs beside the service.
func (x *examination) cluster() {
	if x.local {
		for _, name := range []string{"quorum", "dlm_controld", "fencing", "debugfs", "clock"} {
			x.add(name, checkSkipped, "", "the embedded engine does not need it")
		}
		return
	}
	x.quorum()
	x.controld()
	x.fencing()
	x.debugfs()
	x.clock()
}

// quorum checks the cluster's quorum, as the service knows it.
func (x *examination) quorum() {
	switch x.text("QuorumState") {
	case "quorate":
		x.add("quorum", checkOK, "", "the cluster has quorum")
	case "inquorate":
		x.add("quorum", checkFailed, `bring nodes back until there is a majority: "corosync-quorumtool -s"`,
			"the cluster has no quorum, so no lock is granted")
	default:
		x.add("quorum", checkUnknown, `"systemctl status corosync dlm"`, "it is not known whether the cluster has quorum")
	}
}

// controldSocket is the abstract socket on which dlm_controld answers queries.
const controldSocket = "@dlmc_query_sock"

// controld checks the kernel's DLM and its daemon.
func (x *examination) controld() {
	// The DLM registers this device when its module is loaded (fs/dlm/user.c), before anybody is in
	// a lockspace.
	misc, err := os.ReadFile(x.host.path("proc/misc"))
	if err == nil && !strings.Contains(string(misc), " dlm-control\n") {
		x.noModule = true
		x.add("dlm_controld", checkFailed, `"modprobe dlm"; kernels for clouds do not have the module`,
			"the kernel's DLM is not loaded")
		return
	}
	// This looks for the socket but does not connect to it: an interrupted query can end a
	// dlm_controld that Pacemaker has started, and with it this node's lockspaces
	// (docs/troubleshooting.md).
	sockets, err := os.ReadFile(x.host.path("proc/net/unix"))
	switch {
	case err != nil:
		x.add("dlm_controld", checkUnknown, "", "the sockets of this host can't be read: %v", err)
	case !strings.Contains(string(sockets), controldSocket):
		x.add("dlm_controld", checkFailed, `"systemctl start corosync dlm", or start its resource in Pacemaker`,
			"dlm_controld does not run")
	default:
		x.controldRuns = true
		x.add("dlm_controld", checkOK, "", "dlm_controld runs")
	}
}

// fencing checks whether fencing was turned off, which makes locks worthless when a
// node is cut off (docs/fencing.md). That it is on is known only of a dlm_controld that runs.
func (x *examination) fencing() {
	const name = "etc/dlm/dlm.conf"
	f, err := os.Open(x.host.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		x.fencingIsOn("dlm_controld fences nodes that fail, which is its default; test that it can")
		return
	}
	if err != nil {
		x.add("fencing", checkUnknown, "", "/%s can't be read: %v", name, err)
		return
	}
	defer func() { _ = f.Close() }()
	off := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		key, value, ok := strings.Cut(line, "=")
		if ok && strings.TrimSpace(key) == "enable_fencing" { // the last one counts
			off = strings.TrimSpace(value) == "0"
		}
	}
	if off {
		x.add("fencing", checkFailed,
			"configure fence devices (dlm.conf(5), or stonith in Pacemaker) and remove enable_fencing=0 from /"+name,
			"fencing is off: when a node is cut off, two nodes can hold the same lock")
		return
	}
	x.fencingIsOn("dlm_controld fences nodes that fail; test that it can")
}

// fencingIsOn notes what the configuration says, which is true only if dlm_controld runs.
func (x *examination) fencingIsOn(message string) {
	if !x.controldRuns {
		x.add("fencing", checkUnknown, "", "could not look: dlm_controld, which fences nodes that fail, is not seen here")
		return
	}
	x.add("fencing", checkOK, "", "%s", message)
}

// debugfs checks whether the lock tables can be read.
func (x *examination) debugfs() {
	mounts, err := os.ReadFile(x.host.path("proc/self/mounts"))
	if err != nil {
		x.add("debugfs", checkUnknown, "", "the mounts can't be read: %v", err)
		return
	}
	if !strings.Contains(string(mounts), " /sys/kernel/debug debugfs ") {
		x.add("debugfs", checkWarning, `"systemctl start sys-kernel-debug.mount"`,
			"debugfs is not mounted, so waiters, holders on other nodes and orphans can't be seen")
		return
	}
	lockdown, _ := os.ReadFile(x.host.path("sys/kernel/security/lockdown"))
	if strings.Contains(string(lockdown), "[confidentiality]") || strings.Contains(string(lockdown), "[integrity]") {
		x.add("debugfs", checkWarning, "the mode is chosen by lockdown= on the kernel's command line, or by secure boot",
			"the kernel is locked down, so waiters, holders on other nodes and orphans can't be seen")
		return
	}
	if x.noModule {
		x.add("debugfs", checkUnknown, "", "could not look: the kernel's DLM, which has the lock tables, is not loaded")
		return
	}
	x.add("debugfs", checkOK, "", "the lock tables of the kernel can be read")
}

// clock checks whether the clock is synchronized, which bounds how closely the
// clocks for fencing tokens agree (docs/tokens.md).
func (x *examination) clock() {
	var t unix.Timex
	switch state, err := unix.Adjtimex(&t); {
	case err != nil:
		x.add("clock", checkUnknown, "", "the kernel does not tell whether the clock is synchronized: %v", err)
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		x.add("clock", checkWarning, `"timedatectl set-ntp true", or install chrony`,
			"the clock is not synchronized, so for a moment after a boot fencing tokens may be smaller than "+
				"those of other nodes")
	default:
		x.add("clock", checkOK, "", "the clock is synchronized")
	}
}
