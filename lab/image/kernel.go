package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
// cache has none, by the scripts of the repository at root. To get a newer one, delete
// the cache's directory of it.
func findKernel(ctx context.Context, root, cache, series string) (kernel, error) {
	if _, ok := metaPackages[series]; !ok {
		return kernel{}, fmt.Errorf("no kernel %q in the lab, it knows %v and %s", series, Series(), Testing)
	}
	tree := filepath.Join(cache, "kernel-"+series)
	k, err := kernelIn(tree)
	if errors.Is(err, os.ErrNotExist) {
		if err = fetchKernel(ctx, root, cache, series, tree); err == nil {
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

// fetchKernel downloads and unpacks the newest kernel of a series.
func fetchKernel(ctx context.Context, root, cache, series, tree string) error {
	work, err := os.MkdirTemp(cache, "kernel-new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	unpacked := filepath.Join(work, "tree")
	var release string
	if series == Testing {
		release, err = unpackTesting(ctx, root, work, unpacked)
	} else {
		release, err = unpackSeries(ctx, series, work, unpacked)
	}
	if err != nil {
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

// unpackSeries unpacks a kernel of this machine's Debian, which is one package.
func unpackSeries(ctx context.Context, series, work, to string) (release string, err error) {
	name, err := resolveKernel(ctx, series)
	if err != nil {
		// A new machine's package lists may be older than the kernel.
		if err := updateLists(ctx); err != nil {
			return "", err
		}
		if name, err = resolveKernel(ctx, series); err != nil {
			return "", err
		}
	}
	if _, err := run(ctx, work, "apt-get", "download", name); err != nil {
		return "", fmt.Errorf("%w (outdated package lists? do: apt-get update)", err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("apt-get download %s left %v (%w)", name, debs, err)
	}
	_, err = run(ctx, work, "dpkg-deb", "-x", debs[0], to)
	return strings.TrimPrefix(name, "linux-image-"), err
}

// unpackTesting unpacks the kernel of Debian's testing, which is three packages with all
// in /usr/lib/modules, and moves it to where a kernel of Debian 12 is.
func unpackTesting(ctx context.Context, root, work, to string) (release string, err error) {
	script := filepath.Join(root, "scripts", "unpack-packages.sh")
	meta := metaPackages[Testing][0]
	out, err := run(ctx, "", script, "--depends", filepath.Join(work, "none"), Testing, meta)
	if err != nil {
		return "", err
	}
	name := dependency(string(out), Testing)
	if name == "" {
		return "", fmt.Errorf("no kernel behind %s of %s: %s", meta, Testing, out)
	}
	release = strings.TrimPrefix(name, "linux-image-")
	if _, err := run(ctx, "", script, to, Testing, "linux-base-"+release, "linux-binary-"+release,
		"linux-modules-"+release); err != nil {
		return "", err
	}
	k := kernel{release: release, tree: to}
	if err := os.Rename(filepath.Join(to, "usr", "lib"), filepath.Join(to, "lib")); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Join(to, "boot"), 0o755); err != nil {
		return "", err
	}
	return release, os.Rename(filepath.Join(k.modules(), "vmlinuz"), k.vmlinuz())
}

// updateLists has apt fetch its package lists anew, which only root may do.
func updateLists(ctx context.Context) error {
	argv := []string{"apt-get", "update", "-q"}
	if os.Geteuid() != 0 {
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	if _, err := run(ctx, "", argv[0], argv[1:]...); err != nil {
		return fmt.Errorf("the package lists are outdated: %w", err)
	}
	return nil
}

// resolveKernel asks apt for the kernel package behind the series' meta package.
func resolveKernel(ctx context.Context, series string) (string, error) {
	for _, meta := range metaPackages[series] {
		// apt-cache fails for a package that this Debian doesn't have.
		out, err := run(ctx, "", "apt-cache", "depends", meta)
		if err != nil {
			continue
		}
		if name := dependency(string(out), series); name != "" {
			return name, nil
		}
	}
	return "", fmt.Errorf("apt knows no kernel %s behind %v; do: apt-get update (Debian 12 with its security archive "+
		"has both kernels)",
		series, metaPackages[series])
}

// dependency finds the kernel package of a series in apt-cache's output.
func dependency(depends, series string) string {
	version := regexp.QuoteMeta(series) + `\.`
	if series == Testing {
		version = ""
	}
	re := regexp.MustCompile(`(?m)^\s*Depends: (linux-image-` + version + `[0-9][^ ]*-amd64)$`)
	if m := re.FindStringSubmatch(depends); m != nil && !strings.Contains(m[1], "cloud") {
		return m[1]
	}
	return ""
}

// run runs a command of the host, in no language but that of programs, and returns
// its output; the error has what it said.
func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
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
