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

// metricsEvery is how often the metrics file is written: as often as
// Prometheus asks, where nothing else is configured.
const metricsEvery = 15 * time.Second

// metricsFile writes what is counted into the file that the settings name, for
// others to read. Only its goroutine touches it.
type metricsFile struct {
	log     *slog.Logger
	path    string // that was written last; "" none
	failing string // the last error, told once
}

// writeMetrics writes the metrics file again and again until ctx ends, and then
// removes it: nobody shall take the last numbers for those of now.
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
	spaces := make(chan []api.LockspaceInfo, 1)
	d.service.Lockspaces(func(s []api.LockspaceInfo, _ error) { spaces <- s })
	select {
	case s := <-spaces:
		return replaceFile(path, func(f *os.File) error {
			return writeOpenMetrics(f, d.service.Status(), s,
				thisBuild())
		})
	case <-ctx.Done():
		return nil
	}
}

// replaceFile writes a file that everybody may read, so that who reads it sees
// the old one or the new one, whole. The name that it has meanwhile is none
// that a collector takes.
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

// note says once what is wrong, and once that it is not any more.
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

func (f *metricsFile) remove() {
	if f.path == "" {
		return
	}
	info, err := os.Lstat(f.path)
	if err == nil && info.Mode().IsRegular() { // a directory would go as well, and nobody wrote that here
		err = os.Remove(f.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Warn("the metrics file can't be removed", "path", f.path, "err", err)
	}
	f.path, f.failing = "", ""
}
