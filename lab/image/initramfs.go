package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// nodeModules are loaded by a node's init, each with what it depends on:
// the transport first, then what the DLM and systemd need.
var nodeModules = []string{
	"virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay",
	"virtio_net", "virtio_rng", "configfs", "dlm", "autofs4",
}

// Image is what a node boots.
type Image struct {
	Release string // the kernel's, as uname -r
	Kernel  string // path of vmlinux
	Initrd  string // path of the initramfs
	Modules string // path of the kernel's module tree, for /lib/modules/RELEASE
}

var preparing sync.Mutex

// Prepare makes the image for a kernel series ("6.1", "6.12") in the cache
// directory: it downloads the kernel if need be (network, apt), builds the
// agent from the repository at root, and packs the initramfs unless one with the
// same content is there. Calls of one process wait for each other, because its
// clusters begin together.
func Prepare(ctx context.Context, root, cache, series string) (Image, error) {
	preparing.Lock()
	defer preparing.Unlock()
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Image{}, err
	}
	k, err := findKernel(ctx, root, cache, series)
	if err != nil {
		return Image{}, err
	}
	agent, err := buildAgent(ctx, root, cache)
	if err != nil {
		return Image{}, err
	}
	modules, err := moduleFiles(ctx, k)
	if err != nil {
		return Image{}, err
	}
	initrd, err := pack(ctx, cache, k, agent, modules)
	if err != nil {
		return Image{}, err
	}
	vmlinux, err := unpackVmlinuz(ctx, k)
	if err != nil {
		return Image{}, err
	}
	return Image{Release: k.release, Kernel: vmlinux, Initrd: initrd, Modules: k.modules()}, nil
}

// buildAgent builds the program that is the node's init and agent.
func buildAgent(ctx context.Context, root, cache string) (string, error) {
	out := filepath.Join(cache, "labagent")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./cmd/labagent")
	cmd.Dir = filepath.Join(root, "lab")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the agent: %w\n%s", err, said)
	}
	return out, nil
}

// moduleFiles returns the paths of the node's modules in the order to load.
func moduleFiles(ctx context.Context, k kernel) ([]string, error) {
	var files []string
	seen := map[string]bool{}
	for _, name := range nodeModules {
		out, err := run(ctx, "", "modprobe", "-d", k.tree, "-S", k.release, "--show-depends", name)
		if err != nil {
			return nil, err
		}
		for _, f := range insmodPaths(string(out)) {
			if !seen[f] {
				seen[f] = true
				files = append(files, f)
			}
		}
	}
	return files, nil
}

// insmodPaths reads "modprobe --show-depends": lines "insmod PATH [option...]",
// and "builtin NAME", which need nothing.
func insmodPaths(out string) []string {
	var paths []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "insmod" {
			paths = append(paths, filepath.Clean(f[1]))
		}
	}
	return paths
}

// pack writes the initramfs, uncompressed: unpacking it in an emulated
// machine costs more than reading it.
func pack(ctx context.Context, cache string, k kernel, agent string, modules []string) (string, error) {
	key, err := contentKey(agent, modules)
	if err != nil {
		return "", err
	}
	name := filepath.Join(cache, fmt.Sprintf("initrd-%s-%s.img", k.release, key))
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	stage, err := os.MkdirTemp(cache, "initrd-new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage)
	root := filepath.Join(stage, "root")
	if err := populate(ctx, root, agent, modules); err != nil {
		return "", err
	}
	img := filepath.Join(stage, "img")
	if err := archive(ctx, root, img); err != nil {
		return "", err
	}
	old, _ := filepath.Glob(filepath.Join(cache, "initrd-"+k.release+"-*.img"))
	if err := os.Rename(img, name); err != nil {
		return "", err
	}
	for _, f := range old {
		_ = os.Remove(f) // a running node has read it long ago
	}
	return name, nil
}

// contentKey is a hash over everything that goes into the initramfs.
func contentKey(agent string, modules []string) (string, error) {
	h := sha256.New()
	for _, f := range append([]string{agent}, modules...) {
		body, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", filepath.Base(f), len(body))
		h.Write(body)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// populate lays out the initramfs: the agent as /init and the modules,
// numbered in the order to load.
func populate(ctx context.Context, root, agent string, modules []string) error {
	for _, d := range []string{"modules", "proc", "sys", "dev", "host", "upper", "new"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return err
		}
	}
	body, err := os.ReadFile(agent)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "init"), body, 0o755); err != nil {
		return err
	}
	for i, m := range modules {
		body, err := readModule(ctx, m)
		if err != nil {
			return err
		}
		name, _, _ := strings.Cut(filepath.Base(m), ".ko")
		path := filepath.Join(root, "modules", fmt.Sprintf("%02d-%s.ko", i, name))
		if err := os.WriteFile(path, body, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// readModule reads a module; newer kernels have them compressed.
func readModule(ctx context.Context, path string) ([]byte, error) {
	if strings.HasSuffix(path, ".xz") {
		return run(ctx, "", "xz", "-dc", path)
	}
	return os.ReadFile(path)
}

// archive packs a directory with cpio. The files belong to root in the node
// whoever packs them here.
func archive(ctx context.Context, root, img string) error {
	var names []string
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		names = append(names, rel)
		return err
	})
	if err != nil {
		return err
	}
	out, err := os.Create(img)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, "cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0")
	cmd.Dir = root
	cmd.Stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
	cmd.Stdout = out
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cpio: %w: %s", err, said.Bytes())
	}
	return out.Close()
}
