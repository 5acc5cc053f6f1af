// Package host runs libvirt hosts on this machine for tests of the lock driver:
// each is the real libvirtd in a mount and UTS namespace of its own, with its own
// /etc/libvirt, /run, /var/lib/libvirt, host name and host UUID, and starts real
// QEMU guests of 64 MiB under emulation. A host may have another root file system, with
// a newer libvirt and QEMU than this machine's.
//
//	func TestMain(m *testing.M) {
//		host.Main() // this program is also the first process of each host
//		os.Exit(m.Run())
//	}
//	...
//	h := host.Start(t, host.Config{Name: "a", Bus: address, Install: destdir, Cache: dir})
//	out, err := h.Virsh(ctx, "list")
//
// It owns the namespaces, libvirtd and all its descendants, and ends them with
// the test, also when the test program is killed. It also owns the texts that a
// host needs wherever it runs (Files, Domain), for the nodes of the lab. It
// refuses to know the lock driver and the lock service: they are what is tested.
//
// Concurrency: Virsh may be called from any goroutine, StartLibvirtd and
// StopLibvirtd of one host one after the other.
package host
