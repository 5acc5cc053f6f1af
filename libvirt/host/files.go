package host

import (
	"fmt"
	"strings"
)

// Emulator is where a host's domains find QEMU: behind a script that switches off
// QEMU's own locks on image files. With them QEMU would refuse a second guest
// before libvirt asks the lock driver, and a test would test QEMU.
const Emulator = "/etc/libvirt/qemu-unlocked"

const emulator = `#!/bin/sh
unset LD_PRELOAD
for a do
	shift
	case $a in
	'{"driver":"file",'*) a="{\"driver\":\"file\",\"locking\":\"off\",${a#'{"driver":"file",'}" ;;
	'{"driver":"host_device",'*) a="{\"driver\":\"host_device\",\"locking\":\"off\",${a#'{"driver":"host_device",'}" ;;
	esac
	set -- "$@" "$a"
done
exec qemu-system-x86_64 "$@"
`

// A root file system without a login manager, cgroups of its own or a security
// module. On errors the log is what explains them.
const qemuConf = `user = "root"
group = "root"
dynamic_ownership = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
lock_manager = "dlmlock"
`

const libvirtdConf = `auth_unix_rw = "none"
host_uuid = "%s"
log_outputs = "3:file:%s"
`

// Files are what libvirtd reads, by path, for a host with this UUID whose
// libvirtd logs to the given file, with this text as qemu-dlmlock.conf.
func Files(uuid, log, driver string) map[string]string {
	return map[string]string{
		"/etc/libvirt/libvirtd.conf":     fmt.Sprintf(libvirtdConf, uuid, log),
		"/etc/libvirt/qemu.conf":         qemuConf,
		"/etc/libvirt/qemu-dlmlock.conf": driver,
		Emulator:                         emulator,
	}
}

// WithUser adds the user, or the group, that libvirt's QEMU driver insists on to
// the text of /etc/passwd, or /etc/group.
func WithUser(text string) string {
	const name, id = "libvirt-qemu", "64055"
	fields := strings.Count(strings.SplitN(text, "\n", 2)[0], ":")
	switch {
	case strings.Contains("\n"+text, "\n"+name+":"):
		return text
	case fields == 6:
		return text + name + ":x:" + id + ":" + id + "::/var/lib/libvirt:/usr/sbin/nologin\n"
	default:
		return text + name + ":x:" + id + ":\n"
	}
}
