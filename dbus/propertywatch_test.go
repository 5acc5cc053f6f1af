package dbus

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// changing is a service whose status can change each time that it is read.
type changing struct {
	starting
	status func() api.Status
}

func (c *changing) Status() api.Status { return c.status() }

// Of two looks at the status at once, the older one must not be told last, as a change back.
func TestOlderStatusIsNotToldLast(t *testing.T) {
	core := frontend.New(frontend.Config{})
	defer core.Close()
	var looks atomic.Int32
	service := &changing{}
	core.Start(service)
	s := &Server{core: core, bus: &Bus{wire: &wire{}}}
	w := newPropertyWatch(s)
	service.status = func() api.Status {
		looks.Add(1)
		if w.mu.TryLock() {
			w.mu.Unlock()
			t.Error("another look can begin now, and be told before this one")
		}
		return api.Status{}
	}
	w.begin(api.Status{})
	defer w.end()
	w.tell()
	require.Positive(t, looks.Load())
}
