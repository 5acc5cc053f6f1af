package peer

import (
	"context"
	"encoding/gob"
	"errors"
	"io"
	"sync"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Serve offers engine to the client at the other ends of in and out until in
// ends, and then closes the engine. Calls that may block are served beside each
// other; operations of locks are made in the order in which they arrive.
func Serve(engine dlm.Engine, in io.Reader, out io.Writer) error {
	s := &server{engine: engine, out: gob.NewEncoder(out), spaces: make(map[uint64]dlm.Lockspace)}
	decoder := gob.NewDecoder(in)
	var calls sync.WaitGroup
	defer func() {
		calls.Wait()
		engine.Close()
	}()
	for {
		var r request
		if err := decoder.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if r.Seq == 0 {
			s.operate(&r)
			continue
		}
		calls.Go(func() { s.send(s.call(&r)) })
	}
}

type server struct {
	engine dlm.Engine

	sending sync.Mutex
	out     *gob.Encoder

	mu     sync.Mutex
	spaces map[uint64]dlm.Lockspace
}

// send sends a message. If the client is gone, the message is lost, which does no harm.
func (s *server) send(m *message) {
	s.sending.Lock()
	defer s.sending.Unlock()
	_ = s.out.Encode(m)
}

func (s *server) space(n uint64) dlm.Lockspace {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spaces[n]
}

// operate makes an operation of a lock.
func (s *server) operate(r *request) {
	space := s.space(r.Space)
	if space == nil {
		return
	}
	switch r.Method {
	case methodLock:
		space.Lock(r.Cookie, r.Resource, r.Mode, r.Flags)
	case methodConvert:
		space.Convert(r.Cookie, r.Mode, r.Flags, r.value())
	case methodUnlock:
		space.Unlock(r.Cookie, r.value())
	case methodCancel:
		space.Cancel(r.Cookie)
	case methodAdopt:
		space.Adopt(r.Cookie, r.Resource, r.Mode, r.Flags)
	case methodPurge:
		space.Purge()
	}
}

// call makes a call of the engine.
func (s *server) call(r *request) *message {
	ctx := context.Background()
	if r.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	m := &message{Seq: r.Seq}
	var err error
	switch r.Method {
	case methodName:
		m.Name = s.engine.Name()
	case methodNode:
		m.Node, err = s.engine.Node(ctx)
	case methodOpen:
		err = s.open(ctx, r, s.engine.Open)
	case methodCreate:
		err = s.open(ctx, r, s.engine.Create)
	case methodRemove:
		err = s.engine.Remove(ctx, r.Name)
	case methodLockspaces:
		m.Names, err = s.engine.Lockspaces(ctx)
	case methodCloseEngine:
		err = s.engine.Close()
	case methodCloseSpace:
		if space := s.space(r.Space); space != nil {
			err = space.Close()
		}
	default:
		err = s.look(ctx, r, m)
	}
	m.Failure = pack(err)
	return m
}

func (s *server) open(ctx context.Context, r *request,
	open func(context.Context, string, dlm.Sink) (dlm.Lockspace, error)) error {
	space, err := open(ctx, r.Name, func(ev dlm.Event) { s.send(&message{Space: r.Space, Event: &ev}) })
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spaces[r.Space] = space
	return nil
}

func (s *server) look(ctx context.Context, r *request, m *message) (err error) {
	looker, ok := s.engine.(dlm.Looker)
	if !ok {
		return &dlm.Error{Op: "look", Err: dlm.ErrUnsupported}
	}
	switch r.Method {
	case methodQueues:
		m.Queues, err = looker.Queues(ctx, r.Name, r.Resource)
	case methodOrphans:
		m.Orphans, err = looker.Orphans(ctx, r.Name)
	case methodHealth:
		m.Health, err = looker.Health(ctx, r.Name)
	case methodUsers:
		m.Users, err = looker.Users(ctx, r.Name)
	}
	return err
}
