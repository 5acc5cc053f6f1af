package cluster

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// users are the processes, other than this one, that have the device of a
// lockspace open.
type users struct {
	host *Host
	pids map[int]bool
}

// users looks through /proc, for which one has to be root. A process that
// can't be looked into counts as none.
func (h *Host) users(lockspace string) *users {
	u := &users{host: h, pids: make(map[int]bool)}
	device, ok := h.device(lockspace)
	if !ok {
		return u
	}
	processes, _ := os.ReadDir(h.path("proc"))
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		files, _ := os.ReadDir(h.path("proc", p.Name(), "fd"))
		for _, f := range files {
			var st syscall.Stat_t
			if syscall.Stat(h.path("proc", p.Name(), "fd", f.Name()), &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFCHR && uint64(st.Rdev) == device {
				u.pids[pid] = true
				break
			}
		}
	}
	return u
}

// device is the device number of a lockspace.
func (h *Host) device(lockspace string) (uint64, bool) {
	var st syscall.Stat_t
	if err := syscall.Stat(h.path("dev/misc", "dlm_"+lockspace), &st); err != nil {
		return 0, false
	}
	return uint64(st.Rdev), true
}

// has tells whether the thread tid belongs to one of them.
func (u *users) has(tid int) bool {
	if len(u.pids) == 0 {
		return false
	}
	f, err := os.Open(u.host.path("proc", strconv.Itoa(tid), "status"))
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "Tgid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(text))
			return err == nil && u.pids[pid]
		}
	}
	return false
}
