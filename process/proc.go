package process

import (
	"bytes"
	"errors"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// errFormat says that a file of /proc is not as expected, which says nothing about the process.
var errFormat = errors.New("its format is not that of proc(5)")

var errNoLine = errors.New("a line is missing")

// kernelThread is PF_KTHREAD of include/linux/sched.h: a flag in field 9 of
// /proc/PID/stat.
const kernelThread = 0x00200000

// examine opens a pidfd of the process that has pid now and reads what /proc says about it. It
// opens the pidfd first, and in the end checks whether the process is still alive: then nothing
// else has had its pid in between, so what was read is about this process. The caller owns the
// descriptor.
func (k *kernel) examine(pid uint32) (fd int, info Info, err error) {
	if pid == 0 || pid > 1<<31-1 {
		return -1, Info{}, ErrGone // no process can have it
	}
	err = again(func() (err error) { fd, err = k.pidfdOpen(int(pid), unix.PIDFD_NONBLOCK); return err })
	switch {
	case errors.Is(err, unix.ESRCH):
		return -1, Info{}, ErrGone
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return -1, Info{}, k.threadOr(pid, failed(pid, "pidfd_open", err))
	case err != nil:
		return -1, Info{}, failed(pid, "pidfd_open", err)
	}
	info, err = k.describe(pid)
	if over, e := k.readable(fd); e != nil && err == nil {
		err = failed(pid, "poll", e)
	} else if over {
		err = ErrGone
	}
	if err != nil {
		_ = k.close(fd)
		return -1, Info{}, err
	}
	return fd, info, nil
}

// threadOr reports whether pid is that of a thread, for which pidfd_open(2) gives EINVAL, and since
// Linux 6.15 ENOENT. If it is not, or that can't be seen, it returns the error otherwise.
func (k *kernel) threadOr(pid uint32, otherwise error) error {
	thread := false
	_ = k.use(path(pid, "status"), func(status []byte) error {
		group, err := number(status, "Tgid:")
		thread = err == nil && group != pid
		return err
	})
	if thread {
		return ErrThread
	}
	return otherwise
}

func path(pid uint32, file string) string {
	return "/proc/" + strconv.FormatUint(uint64(pid), 10) + "/" + file
}

// describe reads /proc/PID/stat and /proc/PID/status.
func (k *kernel) describe(pid uint32) (Info, error) {
	info := Info{ID: ID{PID: pid}}
	err := k.parse(pid, "stat", info.parseStat)
	if err == nil {
		err = k.parse(pid, "status", info.parseStatus)
	}
	return info, err
}

// parse parses a file of a process that existed a moment ago.
func (k *kernel) parse(pid uint32, file string, parse func([]byte) error) error {
	err := k.use(path(pid, file), parse)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		err = ErrHidden // or it has just ended, which examine finds out
	}
	if err == nil || errors.Is(err, ErrThread) || errors.Is(err, ErrKernelThread) {
		return err
	}
	return failed(pid, "/proc/PID/"+file, err)
}

// parseStat parses fields 9 and 22. The second field is the name in parentheses, which may contain
// anything, so counting begins after the last one. The state means nothing: the first thread of a
// process can be a zombie while the others go on.
func (i *Info) parseStat(stat []byte) error {
	_, rest, ok := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return errFormat
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	if err == nil {
		i.Start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	}
	switch {
	case err != nil:
		return errFormat
	case flags&kernelThread != 0:
		return ErrKernelThread
	}
	return nil
}

// parseStatus parses the lines Uid, Tgid, PPid and NSpid. A kernel without pid namespaces has no
// NSpid.
func (i *Info) parseStatus(status []byte) error {
	group, err := number(status, "Tgid:")
	if err == nil {
		i.UID, err = number(status, "Uid:")
	}
	if err == nil {
		i.Parent, err = number(status, "PPid:")
	}
	if err != nil {
		return err
	}
	if group != i.PID {
		return ErrThread
	}
	if i.Numbers, err = numbers(status, "NSpid:"); errors.Is(err, errNoLine) {
		i.Numbers, err = []uint32{i.PID}, nil
	}
	if err != nil || len(i.Numbers) == 0 {
		return errFormat
	}
	if i.Numbers[0] != i.PID {
		return errFormat
	}
	return nil
}

// number returns the first number of a line of /proc/PID/status.
func number(status []byte, key string) (uint32, error) {
	all, err := numbers(status, key)
	if err != nil || len(all) == 0 {
		return 0, errFormat
	}
	return all[0], nil
}

func numbers(status []byte, key string) ([]uint32, error) {
	for line := range bytes.Lines(status) {
		after, ok := bytes.CutPrefix(line, []byte(key))
		if !ok {
			continue
		}
		var all []uint32
		for _, f := range bytes.Fields(after) {
			n, err := strconv.ParseUint(string(f), 10, 32)
			if err != nil {
				return nil, errFormat
			}
			all = append(all, uint32(n))
		}
		return all, nil
	}
	return nil, errNoLine
}

// Start returns the start time of the process that has pid, as in ID. The error wraps ErrGone if
// /proc shows none.
func Start(pid uint32) (uint64, error) { return linux.start(pid) }

func (k *kernel) start(pid uint32) (uint64, error) {
	i := Info{ID: ID{PID: pid}}
	err := k.use(path(pid, "stat"), i.parseStat)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return 0, ErrGone
	}
	if err != nil && !errors.Is(err, ErrKernelThread) {
		return 0, failed(pid, "/proc/PID/stat", err)
	}
	return i.Start, nil
}

// Lives makes sure that a process has not ended. The error wraps ErrGone if it has: if no process
// has its pid, another one has it, or it is a zombie, whose threads have all ended and whom its
// parent has not waited for. Any other error says that it could not be found out.
func Lives(id ID) error { return linux.lives(id) }

func (k *kernel) lives(id ID) error {
	fd, info, err := k.examine(id.PID)
	switch {
	case errors.Is(err, ErrThread), errors.Is(err, ErrKernelThread):
		return ErrGone // a process has neither for its pid, so it was reused
	case err != nil:
		return err
	}
	_ = k.close(fd)
	if info.Start != id.Start {
		return ErrGone
	}
	return nil
}

// ownProc checks whether /proc shows the pid namespace of this program.
func (k *kernel) ownProc() error {
	var all []uint32
	err := k.use("/proc/self/status", func(status []byte) error {
		all, _ = numbers(status, "NSpid:") // missing without pid namespaces
		return nil
	})
	switch {
	case err != nil:
		return failed(0, "/proc/self/status", err)
	case len(all) > 1:
		return &Error{Op: "/proc", Err: ErrOtherProc}
	}
	return nil
}

// errTooMany says that a process has more threads or children than one call may look at.
var errTooMany = errors.New("it has too many threads or children")

// childrenOf lists the children of a process, which the kernel lists by the thread that started them.
// If there are more than most threads or children, the error is errTooMany, and no more than that many
// have been looked at.
func (k *kernel) childrenOf(pid uint32, most int) ([]uint32, error) {
	threads, err := k.readDir(path(pid, "task"), most+1)
	if err != nil {
		return nil, err
	}
	if len(threads) > most {
		return nil, errTooMany
	}
	var all []uint32
	buf := make([]byte, 1<<16)
	for _, thread := range threads {
		text, err := k.file(path(pid, "task/"+thread.Name()+"/children"), buf)
		if err != nil {
			continue // the thread has ended, or the kernel has no such file: its children are not found
		}
		for _, f := range bytes.Fields(text) {
			if n, err := strconv.ParseUint(string(f), 10, 32); err == nil {
				all = append(all, uint32(n))
			}
		}
		if len(all) > most {
			return nil, errTooMany
		}
	}
	slices.Sort(all)
	return all, nil
}
