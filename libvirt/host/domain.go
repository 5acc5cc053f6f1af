package host

import (
	"encoding/xml"
	"fmt"
	"os"
	"strings"
)

// Domain is a guest without an operating system: 64 MiB, emulated, one processor.
type Domain struct {
	Name, UUID string
	Disks      []Disk
	Leases     []Lease
	// OnLockFailure is what is to be done when a lock is lost, or "".
	OnLockFailure string
}

// Disk is a disk of a Domain. Its target is vda, vdb, ... by its place in the list.
type Disk struct {
	Path      string // "" for an empty drive
	Format    string // "raw" unless given
	ReadOnly  bool
	Shareable bool
	CDROM     bool // hda, hdb, ...: a drive that can be opened
	SCSI      bool // sda, sdb, ...: can be detached without the guest's help
	Block     bool // Path is a block device
}

// Lease is a lock that a Domain asks for by name.
type Lease struct{ Lockspace, Key string }

// XML is the domain as libvirt wants it.
func (d Domain) XML() string {
	var b strings.Builder
	fmt.Fprintf(&b, "<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>"+
		"<os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/></features><on_crash>destroy</on_crash>",
		escape(d.Name), d.UUID)
	if d.OnLockFailure != "" {
		fmt.Fprintf(&b, "<on_lockfailure>%s</on_lockfailure>", d.OnLockFailure)
	}
	fmt.Fprintf(&b, "<devices><emulator>%s</emulator>", Emulator)
	for i, disk := range d.Disks {
		b.WriteString(disk.XML(i))
	}
	for _, l := range d.Leases {
		fmt.Fprintf(&b, "<lease><lockspace>%s</lockspace><key>%s</key><target path='/nowhere'/></lease>",
			escape(l.Lockspace), escape(l.Key))
	}
	b.WriteString("<controller type='scsi' model='virtio-scsi'/><controller type='usb' model='none'/><memballoon " +
		"model='none'/></devices></domain>")
	return b.String()
}

// XML is the disk as libvirt wants it, the n-th of its domain.
func (d Disk) XML(n int) string {
	kind, attribute, device, target, bus := "file", "file", "disk", "vd", "virtio"
	if d.Block {
		kind, attribute = "block", "dev"
	}
	if d.CDROM {
		device, target, bus = "cdrom", "hd", "ide"
	}
	if d.SCSI {
		target, bus = "sd", "scsi"
	}
	format, more := "raw", ""
	if d.Format != "" {
		format = d.Format
	}
	if d.Path != "" {
		more += fmt.Sprintf("<source %s='%s'/>", attribute, escape(d.Path))
	}
	if d.ReadOnly {
		more += "<readonly/>"
	}
	if d.Shareable {
		more += "<shareable/>"
	}
	return fmt.Sprintf("<disk type='%s' device='%s'><driver name='qemu' type='%s'/>%s<target dev='%s%c' "+
		"bus='%s'/></disk>",
		kind, device, format, more, target, 'a'+n, bus)
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// waitForKey is a boot sector that waits for a key, then switches the machine off (ACPI, at the
// port where the BIOS of QEMU's "pc" puts it): a guest that shuts down when told to.
var waitForKey = []byte{
	0x31, 0xc0, // xor ax, ax
	0xcd, 0x16, // int 0x16: wait for a key
	0xba, 0x04, 0x06, // mov dx, 0x604
	0xb8, 0x00, 0x20, // mov ax, 0x2000: sleep type 5
	0xef,       // out dx, ax
	0xf4,       // hlt
	0xeb, 0xfd, // jmp to the hlt
}

// WriteImage makes a raw disk image of one megabyte that a guest can boot: it
// waits for a key and shuts down.
func WriteImage(path string) error {
	image := make([]byte, 1<<20)
	copy(image, waitForKey)
	image[510], image[511] = 0x55, 0xaa
	return os.WriteFile(path, image, 0o644)
}
