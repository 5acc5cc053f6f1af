package lab

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/dlmlock/dlmlockd/lab/image"
)

//go:embed packages.txt
var packageList string

// CheckPackages returns an *image.MissingError that names the Debian packages
// the lab needs and this machine lacks.
func CheckPackages() error { return image.CheckPackages(image.PackageList(packageList)) }

// Repository returns the root of the repository, which is the directory of the
// main module. It looks for it from the working directory upwards.
func Repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "lab", "packages.txt")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("lab: the working directory is not inside the repository")
		}
		dir = up
	}
}

// CacheDir is where images are kept and where the lock and control socket
// are: LAB_CACHE, or lab/cache in the repository.
func CacheDir() (string, error) {
	return placeFor("LAB_CACHE", "cache")
}

// artefactDir is where consoles go: LAB_ARTEFACTS, or lab/artefacts.
func artefactDir() (string, error) {
	return placeFor("LAB_ARTEFACTS", "artefacts")
}

// checkRoot reports early, in the lab's words, that a node could not boot from the directory.
func checkRoot(dir string) error {
	switch {
	case dir == "":
		return nil
	case !filepath.IsAbs(dir) || strings.ContainsAny(dir, " :,\"\\"):
		return fmt.Errorf("lab: the nodes' root %q: only an absolute path without spaces, commas, colons, "+
			"quotes and backslashes can go through the kernel's command line and mount options", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "usr/lib/systemd/systemd")); err != nil {
		return fmt.Errorf("lab: the nodes' root %s is no root file system with systemd (make lab/cache/trixie makes one): %w",
			dir, err)
	}
	return nil
}

func placeFor(variable, name string) (string, error) {
	dir := os.Getenv(variable)
	if dir == "" {
		root, err := Repository()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(root, "lab", name)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// machine is this process's hold on the machine's lab lock. Clusters of one
// process may run beside each other and share it.
var machine sharedLock

type sharedLock struct {
	mu    sync.Mutex
	users int
	file  *os.File
}

// take takes the lock if no other cluster of the process has it. The hold ends
// with the function that it returns.
func (l *sharedLock) take(ctx context.Context, cache string, waiting func(holder string)) (release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users == 0 {
		if l.file, err = lockLab(ctx, cache, waiting); err != nil {
			return nil, err
		}
	}
	l.users++
	return sync.OnceFunc(l.release), nil
}

func (l *sharedLock) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.users--; l.users == 0 {
		l.file.Close()
	}
}

// lockLab takes the machine's lab lock, waiting for another lab to end. The
// lock goes with the returned file.
func lockLab(ctx context.Context, cache string, waiting func(holder string)) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(cache, "lab.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder, _ := os.ReadFile(f.Name())
		waiting(string(holder))
		// Waiting in the kernel keeps the order of those who wait.
		got := make(chan error, 1)
		go func() { got <- flock(f, unix.LOCK_EX) }()
		select {
		case err = <-got:
		case <-ctx.Done():
			go func() {
				<-got
				f.Close()
			}()
			return nil, fmt.Errorf("another lab is running: %w", context.Cause(ctx))
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lab lock: %w", err)
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt(fmt.Appendf(nil, "pid %d: %s", os.Getpid(), filepath.Base(os.Args[0])), 0)
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
