package onlost

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

const (
	// outputMax is how many bytes of a helper's output go to the log.
	outputMax = 2 << 10
	// pipeTime is how long to wait, after a helper has ended, for its output, which one of its
	// children may have kept open.
	pipeTime = time.Second
)

// environ returns the helper's environment.
func environ(r *api.LostRun) []string {
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/", "LANG=C.UTF-8",
		"DLM_HELPER=" + r.Helper,
		"DLM_LOCKSPACE=" + r.Lockspace,
		// as it is, so that different names stay different; no client can use a name with a NUL
		"DLM_RESOURCE=" + r.Resource,
		"DLM_LOCKID=" + number(uint64(r.LockID)),
		"DLM_OWNER=" + r.Owner,
		"DLM_LABEL=" + r.Label,
		"DLM_DATA=" + r.Data,
		"DLM_REASON=" + r.Reason,
		"DLM_UID=" + number(uint64(r.UID)),
		"DLM_PID=" + number(uint64(r.PID)),
		"DLM_PID_START=" + number(r.PIDStart),
		"DLM_LOST_USEC=" + number(uint64(r.At.UnixMicro())),
	}
	mode := ""
	if r.Mode.Valid() {
		mode = r.Mode.String()
	}
	return append(env, "DLM_MODE="+mode)
}

// execute runs one helper to its end, and logs the result.
func (r *Runner) execute(run *api.LostRun) {
	log := r.cfg.Log.With(slog.String("on-lost", run.Helper), slog.String("lockspace", run.Lockspace),
		slog.String("resource", api.Printable(run.Resource)), slog.String("owner", run.Owner))
	h, ok := r.helper(run.Helper)
	if !ok {
		log.Error("the helper of a lost lock is no longer configured, so nothing is done",
			slog.String("key", "on-lost."+run.Helper))
		return
	}
	log.Info("the helper of a lost lock is started")
	began, out := time.Now(), &head{}
	late, err := r.start(run, h, out)
	for pause := r.cfg.Pause; scarce(err) && r.sleep(pause); pause = min(2*pause, pauseMax) {
		log.Error("the helper of a lost lock could not be started; the service tries again",
			slog.String("err", err.Error()))
		late, err = r.start(run, h, out)
	}
	log = log.With(slog.Duration("took", time.Since(began).Round(time.Millisecond)), slog.String("output", out.text()))
	var exit *exec.ExitError
	switch {
	case r.ctx.Err() != nil:
		log.Warn("the helper of a lost lock was killed, because the service stops; it is run again at the next start")
	case late:
		log.Error("the helper of a lost lock was killed, its time was over", slog.Duration("timeout", h.Timeout))
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		log.Info("the helper of a lost lock has ended", slog.Int("status", 0))
	case errors.As(err, &exit):
		log.Error(msgHelperFailed.String(), slog.Int("status", exit.ExitCode()),
			slog.String("err", exit.String()))
	default:
		log.Error("the helper of a lost lock could not be started", slog.String("err", err.Error()))
	}
}

// start runs a helper once, and reports whether it exceeded its time.
func (r *Runner) start(run *api.LostRun, h Helper, out *head) (late bool, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, h.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = environ(run), "/", pipeTime
	cmd.Stdout, cmd.Stderr = out, out
	// A group of its own, so that a shell script is killed with everything that it has started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err = cmd.Run()
	return errors.Is(ctx.Err(), context.DeadlineExceeded), err
}

// scarce reports whether a helper could not be started because a resource was used up, and there
// may be more of it in a moment.
func scarce(err error) bool {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// pauseMax is the longest pause before a helper is started again.
const pauseMax = 10 * time.Second

// sleep waits; it returns false if the service stops.
func (r *Runner) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-r.ctx.Done():
		return false
	}
}

// head keeps the beginning of what is written to it. exec writes to it from one goroutine, because
// both outputs go to it.
type head struct{ kept []byte }

func (h *head) Write(b []byte) (int, error) {
	h.kept = append(h.kept, b[:min(len(b), outputMax-len(h.kept))]...)
	return len(b), nil
}

func (h *head) text() string { return strings.ToValidUTF8(strings.TrimSpace(string(h.kept)), "?") }
