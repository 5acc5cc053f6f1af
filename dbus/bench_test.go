package dbus

import (
	"fmt"
	"sync"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// The cost of Acquire and Release over the bus beside that of two calls of
// empty methods with the same arguments, made as the library makes them. One
// operation is one pair.
//
//	go test ./dbus -run - -bench Pair

// floorService has the members of the contract and does nothing.
type floorService struct{}

// Acquire answers with a lock that is none.
func (floorService) Acquire(_, _, _ string, _ map[string]godbus.Variant) (uint32, uint64, godbus.ObjectPath,
	*godbus.Error) {
	return 1, 1, lockPath(1), nil
}

// Release does nothing.
func (floorService) Release(_, _ string, _ map[string]godbus.Variant) *godbus.Error { return nil }

const floorName = "org.example.Floor"

// floorPolicy lets everybody call the floor.
const floorPolicy = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><policy user="root"><allow own="` + floorName + `"/></policy>
<policy context="default"><allow send_destination="` + floorName + `"/></policy></busconfig>`

func BenchmarkPair(b *testing.B) {
	for _, kind := range testbus.Kinds {
		bus := testbus.StartWith(b, kind, map[string]string{"floor.conf": floorPolicy})
		newRig(b, bus, rigConfig{})
		floor := bus.Dial(b)
		require.NoError(b, floor.Export(floorService{}, Path, Name))
		_, err := floor.RequestName(floorName, godbus.NameFlagDoNotQueue)
		require.NoError(b, err)
		for _, clients := range []int{1, 8} {
			for _, dest := range []string{floorName, Name} {
				b.Run(fmt.Sprintf("%s/clients=%d/%s", kind, clients, dest[len("org.example."):]), func(b *testing.B) {
					benchPairs(b, bus, dest, clients)
				})
			}
		}
	}
}

func benchPairs(b *testing.B, bus *testbus.Bus, dest string, clients int) {
	objs := make([]godbus.BusObject, clients)
	for i := range objs {
		objs[i] = bus.Dial(b).Object(dest, Path)
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for i, obj := range objs {
		n := b.N / clients
		if i < b.N%clients {
			n++
		}
		wg.Go(func() {
			acquire, release := opt("owner", fmt.Sprint("vm", i)), opt("owner", fmt.Sprint("vm", i))
			name := fmt.Sprint("disk", i)
			for range n {
				if err := obj.Call(Name+".Acquire", 0, "vms", name, "EX", acquire).Err; err != nil {
					b.Error(err)
					return
				}
				if err := obj.Call(Name+".Release", 0, "vms", name, release).Err; err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
