// Package boottime reads the time since the boot of the host, including the time for which it
// was suspended: CLOCK_BOOTTIME of clock_gettime(2), which nobody can set, and in which the kernel
// counts the start times of processes (proc(5), "starttime"; kernel, fs/proc/array.c).
//
// It knows no other clock, and keeps nothing. Concurrency: any goroutine may call it.
package boottime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now returns the time since the boot. It fails only on kernels that do not have the clock
// (Linux before 2.6.39). It is a real system call: the vDSO does not make it cheap.
func Now() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, err
	}
	return time.Duration(ts.Nano()), nil
}
