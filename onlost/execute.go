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
	// outputMax is how much of what a helper prints goes to the log, in bytes.
	outputMax = 2 << 10
	// pipeTime is how long after the end of a helper its output is waited for,
	// which a child of it may have kept open.
	pipeTime = time.Second
)

// environ is all that a helper is told.
func environ(r *api.LostRun) []string {
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/", "LANG=C.UTF-8",
		"DLM_HELPER=" + r.Helper,
		"DLM_LOCKSPACE=" + r.Lockspace,
		"DLM_RESOURCE=" + r.Resource, // as it is, so that two names are never one; no client can name one with a NUL
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

// execute runs one helper to its end, and writes the line about it.
func (r *Runner) execute(run *api.LostRun) {
	log := r.cfg.Log.With(slog.String("on-lost", run.Helper), slog.String("lockspace", run.Lockspace),
		slog.String("resource", api.Printable(run.Resource)), slog.String("owner", run.Owner))
	h, ok := r.helper(run.Helper)
	if !ok {
		log.Error("the helper of a lost lock is not configured any more, so nothing is done",
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
		log.Error("the helper of a lost lock has failed", slog.Int("status", exit.ExitCode()),
			slog.String("err", exit.String()))
	default:
		log.Error("the helper of a lost lock could not be started", slog.String("err", err.Error()))
	}
}

// start runs a helper once, and tells whether its time was over.
func (r *Runner) start(run *api.LostRun, h Helper, out *head) (late bool, err error) {
	ctx, cancel := context.WithTimeout(r.ctx, h.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Command[0], h.Command[1:]...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = environ(run), "/", pipeTime
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err = cmd.Run()
	return errors.Is(ctx.Err(), context.DeadlineExceeded), err
}

// scarce reports whether a helper could not be started because something was used
// up, and there may be more in a moment.
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

// sleep waits; false: the service stops.
func (r *Runner) sleep(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-r.ctx.Done():
		return false
	}
}

// head keeps the beginning of what is written to it. exec writes to it from one
// goroutine, since it is both outputs.
type head struct{ kept []byte }

func (h *head) Write(b []byte) (int, error) {
	h.kept = append(h.kept, b[:min(len(b), outputMax-len(h.kept))]...)
	return len(b), nil
}

func (h *head) text() string { return strings.ToValidUTF8(strings.TrimSpace(string(h.kept)), "?") }
