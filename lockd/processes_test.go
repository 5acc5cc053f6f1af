package lockd

import (
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/process"
)

// fakeProcesses are the processes of a test. The real ones are tested in
// package process and over the bus.
type fakeProcesses struct {
	mu      sync.Mutex
	alive   map[process.ID]uint32 // with the uid
	watched map[process.ID]func(process.ID, process.State, error)
	held    map[process.ID]int
	blind   error // what looking at any process gives
}

// Translate has nobody in another namespace.
func (f *fakeProcesses) Translate(_, number uint32, _ uint64) (uint32, error) { return number, nil }

func (f *fakeProcesses) find(pid uint32) (process.Info, error) {
	for id, uid := range f.alive {
		if id.PID == pid {
			return process.Info{ID: id, UID: uid}, nil
		}
	}
	return process.Info{}, process.ErrGone
}

func (f *fakeProcesses) Hold(pid, _ uint32) (process.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.blind != nil {
		return process.Info{}, f.blind
	}
	i, err := f.find(pid)
	if err == nil {
		f.held[i.ID]++
	}
	return i, err
}

func (f *fakeProcesses) Drop(id process.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held[id]--; f.held[id] == 0 {
		delete(f.held, id)
	}
}

func (f *fakeProcesses) Watch(id process.ID, _ uint32, tell func(process.ID, process.State, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, alive := f.alive[id]
	err := f.blind
	switch {
	case err != nil && f.held[id] == 0:
		// After all that happens at once, for the sake of one order.
		time.AfterFunc(time.Millisecond, func() { tell(id, process.Undetermined, err) })
	case !alive:
		go tell(id, process.Ended, nil)
	case f.held[id] == 0:
		go tell(id, process.Alive, nil)
	}
	f.watched[id] = tell
}

func (f *fakeProcesses) Unwatch(id process.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.watched, id)
}
