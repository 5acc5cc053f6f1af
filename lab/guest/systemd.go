package guest

import (
	"embed"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

//go:embed systemd/*
var units embed.FS

// masked are units of systemd itself that a node has no use for, or that
// would walk the whole root over 9p (systemd-tmpfiles-setup takes minutes).
var masked = []string{
	"systemd-tmpfiles-setup.service", "systemd-tmpfiles-setup-dev.service", "systemd-tmpfiles-clean.timer",
	"systemd-update-utmp.service", "systemd-update-done.service", "systemd-remount-fs.service",
	"systemd-udev-trigger.service", "systemd-hwdb-update.service", "systemd-random-seed.service",
	"systemd-sysusers.service", "systemd-firstboot.service", "systemd-machine-id-commit.service",
	"systemd-journal-catalog-update.service", "systemd-journal-flush.service", "systemd-boot-system-token.service",
	"systemd-pstore.service", "systemd-binfmt.service", "systemd-modules-load.service", "systemd-repart.service",
	"kmod-static-nodes.service", "ldconfig.service", "e2scrub_reap.service", "e2scrub_all.timer",
	"proc-sys-fs-binfmt_misc.automount", "dev-hugepages.mount", "dev-mqueue.mount",
	"sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount",
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "man-db.timer",
}

// installUnits gives systemd the lab's units instead of whatever the host's
// administrator has enabled.
func installUnits(root string) error {
	dir := root + "/etc/systemd/system"
	if err := emptyDir(dir); err != nil {
		return err
	}
	entries, err := fs.ReadDir(units, "systemd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		body, err := units.ReadFile("systemd/" + e.Name())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), body, 0o644); err != nil {
			return err
		}
	}
	if err := mask(dir, masked); err != nil {
		return err
	}
	return maskGenerators(root)
}

// emptyDir covers what the host has in a directory.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755")
}

// mask makes systemd take these units or generators for absent.
func mask(dir string, names []string) error {
	for _, name := range names {
		if err := os.Symlink("/dev/null", filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// maskGenerators keeps systemd from running the host's generators. They have
// nothing to generate in a node, and take most of the time of a daemon-reload.
func maskGenerators(root string) error {
	entries, err := os.ReadDir(root + "/usr/lib/systemd/system-generators")
	if err != nil {
		return err
	}
	dir := root + "/etc/systemd/system-generators"
	if err := emptyDir(dir); err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return mask(dir, names)
}
