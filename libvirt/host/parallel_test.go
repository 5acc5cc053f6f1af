package host_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/libvirt/host"
)

// Four clients start twelve guests each at the same time, on two hosts; each guest has a disk of
// its own and one that all share, and every fourth has a rival that wants its disk. All guests run,
// no rival does, and in the end no lock is left.
func TestManyGuests(t *testing.T) { bothDrivers(t, testManyGuests) }

func testManyGuests(t *testing.T, r *rig) {
	const clients, guests = 4, 12
	if built.preload != "" {
		t.Skip("the sanitizer's allocator may hang in a child that is forked while other threads allocate, which " +
			"libvirtd does here")
	}
	hosts := []*machine{r.host("alpha", ""), r.host("beta", "")}
	common := host.Disk{Path: r.image("common.img"), Shareable: true}
	type guest struct{ name, file, rival string }
	var want []string
	all := make([][]guest, clients)
	for c := range clients {
		for g := range guests {
			name := fmt.Sprintf("g%d-%d", c, g)
			disk := host.Disk{Path: r.image(name + ".img")}
			one := guest{name: name, file: r.file(name, domain(name, disk, common).XML())}
			if g%4 == 0 {
				one.rival = r.file("r"+name, domain("r"+name, disk).XML())
			}
			all[c] = append(all[c], one)
			want = append(want, name+": "+name+".img EX", name+": common.img PR")
		}
	}
	each := func(do func(h *machine, g guest) error) time.Duration {
		began := time.Now()
		var wg sync.WaitGroup
		for c := range clients {
			wg.Go(func() {
				for _, g := range all[c] {
					if err := do(hosts[c%len(hosts)], g); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		return time.Since(began)
	}
	virsh := func(h *machine, args ...string) error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := h.Virsh(ctx, args...); err != nil {
			return fmt.Errorf("virsh %v: %w: %s", args, err, out)
		}
		return nil
	}
	took := each(func(h *machine, g guest) error { return virsh(h, "create", g.file) })
	t.Logf("%d guests started in %v", clients*guests, took.Round(time.Millisecond))
	r.now(want...)
	each(func(h *machine, g guest) error {
		if g.rival != "" && virsh(h, "create", g.rival) == nil {
			return fmt.Errorf("the disk of %s is used twice", g.name)
		}
		return nil
	})
	r.now(want...)
	took = each(func(h *machine, g guest) error { return virsh(h, "destroy", g.name) })
	t.Logf("%d guests destroyed in %v", clients*guests, took.Round(time.Millisecond))
	r.held()
	for _, h := range hosts {
		require.Empty(t, h.virsh("list", "--name", "--all"))
	}
}

// libvirt calls the driver from a thread of each guest, which lives as long as the guest: what the
// driver keeps must not grow with the guests. A bus allows a user 256 connections.
func TestConnections(t *testing.T) {
	const guests = 12
	r := startOver(t, dbus)
	h := r.host("alpha", "")
	var want []string
	for i := range guests {
		name := fmt.Sprintf("g%d", i)
		h.virsh("create", r.file(name, domain(name, host.Disk{Path: r.image(name + ".img")}).XML()))
		want = append(want, name+": "+name+".img EX")
	}
	before := r.connections(h)
	for i := range guests {
		h.virsh("suspend", fmt.Sprintf("g%d", i))
	}
	r.held()
	for i := range guests {
		h.virsh("resume", fmt.Sprintf("g%d", i))
	}
	r.now(want...)
	after := r.connections(h)
	t.Logf("libvirtd had %d connections to the bus after starting %d guests, %d after suspending and resuming them",
		before, guests, after)
	require.LessOrEqual(t, after, before+1)
}

// connections is how many libvirtd has to the bus.
func (r *rig) connections(h *machine) int {
	r.t.Helper()
	conn := r.bus.Dial(r.t)
	defer conn.Close()
	var names []string
	require.NoError(r.t, conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names))
	n := 0
	for _, name := range names {
		var pid int
		if strings.HasPrefix(name, ":") &&
			conn.BusObject().Call("org.freedesktop.DBus.GetConnectionUnixProcessID", 0, name).Store(&pid) == nil &&
			pid == h.Libvirtd() {
			n++
		}
	}
	return n
}
