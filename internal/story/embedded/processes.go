package embedded

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/internal/story"
	"github.com/dlmlock/dlmlockd/process"
)

// processes are those of a node, for lockd.Config. The real ones are tested in
// package process and over the bus.
type processes struct {
	named map[string]process.ID // those that the story has started; its goroutine alone uses it
	last  process.ID

	mu      sync.Mutex
	alive   map[process.ID]uint32 // with the uid
	watched map[process.ID]func(process.ID, process.State, error)
	held    map[process.ID]int
	blind   bool // no process can be looked at
}

func newProcesses() *processes {
	return &processes{named: map[string]process.ID{}, last: process.ID{PID: 40, Start: 1000},
		alive:   map[process.ID]uint32{},
		watched: map[process.ID]func(process.ID, process.State, error){}, held: map[process.ID]int{}}
}

// do carries out the commands about processes, or returns errOther.
func (p *processes) do(cmd *story.Command, out *story.Output) error {
	switch cmd.Verb {
	case "process":
		return p.start(cmd.Arg(0), number(cmd.Options["uid"]), cmd.Options["pid-of"])
	case "end-process":
		return p.end(cmd.Arg(0))
	case "hide-processes":
		p.setBlind(true)
	case "show-processes":
		p.setBlind(false)
	case "watched-processes":
		held, watched := p.counts()
		out.Say("held %d, watched %d", held, watched)
	default:
		return errOther
	}
	return nil
}

// start starts a process, with the pid of another that has ended if pidOf says so.
func (p *processes) start(name string, uid uint32, pidOf string) error {
	p.last.PID++
	p.last.Start += 1000
	id := p.last
	if pidOf != "" {
		other, ok := p.named[pidOf]
		if !ok {
			return fmt.Errorf("no process is called %s", pidOf)
		}
		id.PID = other.PID
	}
	p.named[name] = id
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alive[id] = uid
	return nil
}

// end kills a process.
func (p *processes) end(name string) error {
	id, ok := p.named[name]
	if !ok {
		return fmt.Errorf("no process is called %s", name)
	}
	p.mu.Lock()
	ended := p.watched[id]
	delete(p.alive, id)
	delete(p.watched, id)
	p.mu.Unlock()
	if ended != nil {
		ended(id, process.Ended, nil)
	}
	return nil
}

// forget ends what a daemon has watched that has ended.
func (p *processes) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.watched)
	clear(p.held)
}

func (p *processes) setBlind(blind bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blind = blind
}

func (p *processes) counts() (held, watched int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.held), len(p.watched)
}

// look is what looking at a process gives.
func (p *processes) look(pid uint32) error {
	if p.blind {
		return &process.Error{PID: pid, Op: "pidfd_open", Errno: syscall.EMFILE}
	}
	return nil
}

// Translate implements lockd.Processes: nobody is in another namespace.
func (p *processes) Translate(_, number uint32, _ uint64) (uint32, error) { return number, nil }

// Hold implements lockd.Processes.
func (p *processes) Hold(pid, _ uint32) (process.Info, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.look(pid); err != nil {
		return process.Info{}, err
	}
	for id, uid := range p.alive {
		if id.PID == pid {
			p.held[id]++
			return process.Info{ID: id, UID: uid}, nil
		}
	}
	return process.Info{}, process.ErrGone
}

// Drop implements lockd.Processes.
func (p *processes) Drop(id process.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[id]--; p.held[id] == 0 {
		delete(p.held, id)
	}
}

// Watch implements lockd.Processes.
func (p *processes) Watch(id process.ID, _ uint32, tell func(process.ID, process.State, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, alive := p.alive[id]
	err := p.look(id.PID)
	switch {
	case err != nil && p.held[id] == 0:
		// After everything that happens at once, so that there is one order.
		time.AfterFunc(time.Millisecond, func() { tell(id, process.Undetermined, err) })
	case !alive:
		go tell(id, process.Ended, nil)
	case p.held[id] == 0:
		go tell(id, process.Alive, nil)
	}
	p.watched[id] = tell
}

// Unwatch implements lockd.Processes.
func (p *processes) Unwatch(id process.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watched, id)
}
