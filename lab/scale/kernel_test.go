package scale_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// recovered is what a node's kernel says about its last recovery of a lockspace.
type recovered struct {
	began, ended time.Duration // since the boot
	rebuilt      time.Duration // the same; when this node had all locks that others sent to it
	reported     time.Duration // what the kernel itself reports, without the first step
	members      int
	in           int // names that came for its part of the directory
	masters      int // resources for which it needed a new master
	out          int // locks that it sent to new masters
}

var (
	kernelLine    = regexp.MustCompile(`(?m)^\[ *(\d+\.\d+)\] dlm: (\S+): (dlm_recover.*)$`)
	recoverBegins = regexp.MustCompile(`^dlm_recover \d+$`) // the number may need 64 bits
	locksAreIn    = regexp.MustCompile(`^dlm_recover_locks \d+ in$`)
	recoverEnds   = regexp.MustCompile(`^dlm_recover \d+ generation \d+ done: (\d+) ms$`)
)

// recovery reads the messages of the kernel. It returns false if no recovery has ended, or not the
// last one that has begun.
func recovery(messages, space string) (last recovered, ok bool) {
	for _, m := range kernelLine.FindAllStringSubmatch(messages, -1) {
		if m[2] != space {
			continue
		}
		seconds, _ := strconv.ParseFloat(m[1], 64)
		at := time.Duration(seconds * float64(time.Second))
		if recoverBegins.MatchString(m[3]) {
			last, ok = recovered{began: at}, false
			continue
		}
		if locksAreIn.MatchString(m[3]) {
			last.rebuilt = at
		}
		if ms, found := last.read(m[3]); found {
			last.ended, last.reported, ok = at, ms, true
		}
	}
	return last, ok
}

// read takes a number from a message. Only the last message of a recovery has a duration.
func (r *recovered) read(message string) (took time.Duration, done bool) {
	for format, to := range map[string]*int{
		"dlm_recover_members %d nodes": &r.members, "dlm_recover_directory %d in": &r.in,
		"dlm_recover_masters %d of": &r.masters, "dlm_recover_locks %d out": &r.out,
	} {
		var n int
		if _, err := fmt.Sscanf(message, format, &n); err == nil {
			*to = n
		}
	}
	end := recoverEnds.FindStringSubmatch(message)
	if end == nil {
		return 0, false
	}
	ms, err := strconv.Atoi(end[1])
	return time.Duration(ms) * time.Millisecond, err == nil
}

// recovery waits until a node has recovered a lockspace with that many members.
func (r *rig) recovery(ctx context.Context, node int, space string, members int) (recovered, error) {
	for {
		out, err := r.cluster.Node(node).Run(ctx, "dmesg")
		if err != nil {
			return recovered{}, err
		}
		if last, ok := recovery(out, space); ok && last.members == members {
			return last, nil
		}
	}
}

// inactiveResource is a line of debugfs that says which resources a node knows without having a
// lock on them (print_format4 in fs/dlm/debug_fs.c), which on the directory node are those with
// another master.
var inactiveResource = regexp.MustCompile(`(?m)^rsb \S+ \S+ (\d+) (\d+) (\d+) \d+ \S+ \d+ (str|hex) ?(.*)$`)

// directory returns the names for which a node says that it is the directory, in hexadecimal, and the
// master of each.
func directory(table string) map[string]uint32 {
	names := map[string]uint32{}
	for _, m := range inactiveResource.FindAllStringSubmatch(table, -1) {
		if m[2] != m[3] {
			continue
		}
		name := strings.ReplaceAll(m[5], " ", "")
		if m[4] == "str" {
			name = hex.EncodeToString([]byte(m[5]))
		}
		master, _ := strconv.Atoi(m[1])
		names[name] = uint32(master)
	}
	return names
}
