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
	"6.1":  {"linux-image-amd64", "linux-image-6.1-amd64"},
	"6.12": {"linux-image-6.12-amd64", "linux-image-amd64"},
}

// Series returns the kernel series that Prepare knows.
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
		return kernel{}, fmt.Errorf("no kernel %q in the lab, it knows %v", series, Series())
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
	name, err := resolveKernel(ctx, series)
	if err != nil {
		// A new machine's package lists may be older than the kernel.
		if err := updateLists(ctx); err != nil {
			return err
		}
		if name, err = resolveKernel(ctx, series); err != nil {
			return err
		}
	}
	work, err := os.MkdirTemp(cache, "kernel-new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if _, err := run(ctx, work, "apt-get", "download", name); err != nil {
		return fmt.Errorf("%w (outdated package lists? do: apt-get update)", err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %v (%w)", name, debs, err)
	}
	unpacked := filepath.Join(work, "tree")
	if _, err := run(ctx, work, "dpkg-deb", "-x", debs[0], unpacked); err != nil {
		return err
	}
	release := strings.TrimPrefix(name, "linux-image-")
	if _, err := run(ctx, work, "depmod", "-b", unpacked, release); err != nil {
		return err
	}
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	return os.Rename(unpacked, tree)
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
	re := regexp.MustCompile(`(?m)^\s*Depends: (linux-image-` + regexp.QuoteMeta(series) + `\.[0-9][^ ]*-amd64)$`)
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
