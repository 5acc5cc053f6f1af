package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// metaPackages lists, for each kernel series, the Debian packages that may
// depend on its newest kernel: Debian 12 has 6.12 as a second kernel. The
// kernels for clouds are no use, they come without the DLM.
var metaPackages = map[string][]string{
	"6.1":   {"linux-image-amd64", "linux-image-6.1-amd64"},
	"6.12":  {"linux-image-6.12-amd64", "linux-image-amd64"},
	Testing: {"linux-image-amd64"},
}

// Testing is the series of the kernel in Debian's testing, whatever its number
// is today. It shows which faults of the DLM newer kernels still have.
const Testing = "testing"

// Series returns the kernel series that every test of the lab runs on. Prepare
// knows Testing beside them.
func Series() []string { return []string{"6.1", "6.12"} }

// kernel is one unpacked kernel package.
type kernel struct {
	release string // as uname -r
	tree    string // the directory it was unpacked to
}

func (k kernel) vmlinuz() string { return filepath.Join(k.tree, "boot", "vmlinuz-"+k.release) }
func (k kernel) modules() string { return filepath.Join(k.tree, "lib", "modules", k.release) }

// findKernel returns the unpacked kernel of a series, downloading it if the
// cache has none. To get a newer one, delete the cache's directory of it.
func findKernel(ctx context.Context, cache, series string) (kernel, error) {
	if _, ok := metaPackages[series]; !ok {
		return kernel{}, fmt.Errorf("no kernel %q in the lab, it knows %v and %s", series, Series(), Testing)
	}
	tree := filepath.Join(cache, "kernel-"+series)
	k, err := kernelIn(tree)
	if errors.Is(err, os.ErrNotExist) {
		if err = fetchKernel(ctx, cache, series, tree); err == nil {
			k, err = kernelIn(tree)
		}
	}
	return k, err
}

// kernelIn looks for the kernel in a tree; depmod's output is the last thing
// that fetchKernel makes, so a tree that has it is complete.
func kernelIn(tree string) (kernel, error) {
	found, err := filepath.Glob(filepath.Join(tree, "lib", "modules", "*", "modules.dep"))
	if err != nil {
		return kernel{}, err
	}
	if len(found) != 1 {
		return kernel{}, fmt.Errorf("%s: %w", tree, os.ErrNotExist)
	}
	return kernel{release: filepath.Base(filepath.Dir(found[0])), tree: tree}, nil
}

// fetchKernel downloads and unpacks the newest kernel package of a series.
func fetchKernel(ctx context.Context, cache, series, tree string) error {
	from := installed
	if series == Testing {
		var err error
		if from, err = suite(ctx, cache, series); err != nil {
			return err
		}
	}
	name, err := from.resolveKernel(ctx, series)
	if err != nil {
		// A new machine's package lists may be older than the kernel.
		if err := from.update(ctx); err != nil {
			return err
		}
		if name, err = from.resolveKernel(ctx, series); err != nil {
			return err
		}
	}
	work, err := os.MkdirTemp(cache, "kernel-new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	release := strings.TrimPrefix(name, "linux-image-")
	unpacked := filepath.Join(work, "tree")
	if err := from.unpackKernel(ctx, work, unpacked, release, series); err != nil {
		return err
	}
	if _, err := run(ctx, work, "depmod", "-b", unpacked, release); err != nil {
		return err
	}
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	return os.Rename(unpacked, tree)
}

// unpackKernel downloads the packages of a kernel to a directory and unpacks
// them. Until Debian 13 it is one.
func (a apt) unpackKernel(ctx context.Context, dir, to, release, series string) error {
	packages := []string{"linux-image-" + release}
	if series == Testing {
		packages = []string{"linux-base-" + release, "linux-binary-" + release, "linux-modules-" + release}
	}
	if _, err := a.run(ctx, dir, "apt-get", append([]string{"download"}, packages...)...); err != nil {
		return fmt.Errorf("%w (outdated package lists? do: apt-get update)", err)
	}
	if err := unpack(ctx, dir, to, len(packages)); err != nil {
		return err
	}
	if series == Testing {
		return oldLayout(to, release)
	}
	return nil
}

// unpack unpacks the packages in a directory, of which there are n.
func unpack(ctx context.Context, dir, to string, n int) error {
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != n {
		return fmt.Errorf("apt-get download left %v (%w)", debs, err)
	}
	for _, deb := range debs {
		if _, err := run(ctx, dir, "dpkg-deb", "-x", deb, to); err != nil {
			return err
		}
	}
	return nil
}

// oldLayout moves the files of a kernel of Debian 14, where all is in
// /usr/lib/modules, to the places where a kernel of Debian 12 has them.
func oldLayout(tree, release string) error {
	if err := os.Rename(filepath.Join(tree, "usr", "lib"), filepath.Join(tree, "lib")); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(tree, "boot"), 0o755); err != nil {
		return err
	}
	k := kernel{release: release, tree: tree}
	return os.Rename(filepath.Join(k.modules(), "vmlinuz"), k.vmlinuz())
}

// run runs a command of the host, in no language but that of programs, and returns
// its output; the error has what it said.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	return installed.run(ctx, dir, name, args...)
}

// run is the same with this configuration of apt.
func (a apt) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	if a.config != "" {
		cmd.Env = append(cmd.Env, "APT_CONFIG="+a.config)
	}
	out, err := cmd.Output()
	if err != nil {
		var said string
		if failed, ok := errors.AsType[*exec.ExitError](err); ok {
			said = ": " + strings.TrimSpace(string(failed.Stderr))
		}
		return nil, fmt.Errorf("%s %s: %w%s", name, strings.Join(args, " "), err, said)
	}
	return out, nil
}
