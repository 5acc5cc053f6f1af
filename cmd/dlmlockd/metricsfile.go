package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// metricsEvery is how often the metrics file is written: as often as Prometheus collects by
// default.
const metricsEvery = 15 * time.Second

// metricsFile writes the counters to the file that the settings name. Only its goroutine uses it.
type metricsFile struct {
	log     *slog.Logger
	path    string // the file that was written last; "" for none
	failing string // the last error, which is reported once
}

// writeMetrics writes the metrics file again and again until ctx ends, and then removes it, so that
// nobody takes old numbers for current ones.
func (d *daemon) writeMetrics(ctx context.Context, changed <-chan struct{}) {
	f := metricsFile{log: d.log}
	defer f.remove()
	tick := time.NewTicker(metricsEvery)
	defer tick.Stop()
	for {
		if path := d.settings.metricsFile(); path != f.path {
			f.remove()
			f.path = path
		}
		if f.path != "" {
			f.note(d.writeMetricsTo(ctx, f.path))
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

func (d *daemon) writeMetricsTo(ctx context.Context, path string) error {
	// The channel has room for the answer, which comes in a turn of the table, maybe after ctx has
	// ended. If the table is stuck, the file is not written any more: its age raises an alarm
	// (data/monitoring).
	spaces := make(chan []api.LockspaceInfo, 1)
	d.service.Lockspaces(func(s []api.LockspaceInfo, _ error) { spaces <- s })
	select {
	case s := <-spaces:
		return replaceFile(path, func(f *os.File) error {
			return encodeMetrics(f, d.service.Status(), s,
				thisBuild())
		})
	case <-ctx.Done():
		return nil // the file is about to be removed
	}
}

// replaceFile writes a file that everybody may read. A reader sees either the old or the new one,
// complete. Collectors ignore its name while it is being written. It is not synchronised with the
// disk: after a crash of the host its numbers are of no use.
func replaceFile(path string, write func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	err = errors.Join(f.Chmod(0o644), write(f), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// note logs once what is wrong, and once that it is no longer so.
func (f *metricsFile) note(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if (text == "") != (f.failing == "") {
		if err != nil {
			f.log.Error("the metrics file can't be written; dlmlockd.toml(5) tells what the sandbox needs", "path",
				f.path, "err", err)
		} else {
			f.log.Info("the metrics file can be written again", "path", f.path)
		}
	}
	f.failing = text
}

// remove removes the file that was written last. One that somebody has put in its place (a link, a
// directory) stays.
func (f *metricsFile) remove() {
	if f.path == "" {
		return
	}
	info, err := os.Lstat(f.path)
	// os.Remove would remove an empty directory as well, which is not ours
	if err == nil && info.Mode().IsRegular() {
		err = os.Remove(f.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Warn("the metrics file can't be removed", "path", f.path, "err", err)
	}
	f.path, f.failing = "", ""
}
