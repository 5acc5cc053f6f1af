package peer

import (
	"context"
	"encoding/gob"
	"io"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
)

// Client is the engine of the process at the other end. When that is gone,
// calls fail with dlm.ErrClosed, and operations that were under way have no
// end, as with every engine whose process has died.
type Client struct {
	sending sync.Mutex
	out     *gob.Encoder

	mu      sync.Mutex
	seq     uint64
	replies map[uint64]chan *message
	spaces  map[uint64]*space
	done    chan struct{} // closed when the other end is gone
}

var (
	_ dlm.Engine = (*Client)(nil)
	_ dlm.Looker = (*Client)(nil)
)

// NewClient talks to a Serve that reads what is written to out, and whose
// messages come from in.
func NewClient(in io.Reader, out io.Writer) *Client {
	c := &Client{
		out:     gob.NewEncoder(out),
		replies: make(map[uint64]chan *message),
		spaces:  make(map[uint64]*space),
		done:    make(chan struct{}),
	}
	go c.receive(gob.NewDecoder(in))
	return c
}

// Done is closed when the process at the other end is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

func (c *Client) receive(in *gob.Decoder) {
	defer close(c.done)
	for {
		var m message
		if in.Decode(&m) != nil {
			return
		}
		if m.Event != nil {
			c.deliver(&m)
			continue
		}
		c.mu.Lock()
		reply := c.replies[m.Seq]
		delete(c.replies, m.Seq)
		c.mu.Unlock()
		if reply != nil {
			reply <- &m
		}
	}
}

func (c *Client) deliver(m *message) {
	c.mu.Lock()
	s := c.spaces[m.Space]
	c.mu.Unlock()
	if s != nil {
		s.sink(*m.Event)
	}
}

func (c *Client) send(r *request) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.out.Encode(r)
}

// call makes a call at the other end and waits for its end.
func (c *Client) call(ctx context.Context, r request) (*message, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		r.Timeout = time.Until(deadline)
	}
	reply := make(chan *message, 1)
	c.mu.Lock()
	c.seq++
	r.Seq = c.seq
	c.replies[r.Seq] = reply
	c.mu.Unlock()
	if err := c.send(&r); err != nil {
		return nil, gone()
	}
	select {
	case m := <-reply:
		return m, m.Failure.unpack()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
		return nil, gone()
	}
}

func gone() error {
	return &dlm.Error{Op: "call", Err: dlm.ErrClosed, Advice: "the other process is gone"}
}

// Name is the name of the engine at the other end, or "" if that is gone.
func (c *Client) Name() string {
	m, err := c.call(context.Background(), request{Method: methodName})
	if err != nil {
		return ""
	}
	return m.Name
}

// Node implements dlm.Engine.
func (c *Client) Node(ctx context.Context) (dlm.NodeInfo, error) {
	m, err := c.call(ctx, request{Method: methodNode})
	if err != nil {
		return dlm.NodeInfo{}, err
	}
	return m.Node, nil
}

// Open implements dlm.Engine.
func (c *Client) Open(ctx context.Context, name string, sink dlm.Sink) (dlm.Lockspace, error) {
	return c.open(ctx, methodOpen, name, sink)
}

// Create implements dlm.Engine.
func (c *Client) Create(ctx context.Context, name string, sink dlm.Sink) (dlm.Lockspace, error) {
	return c.open(ctx, methodCreate, name, sink)
}

func (c *Client) open(ctx context.Context, how method, name string, sink dlm.Sink) (dlm.Lockspace, error) {
	c.mu.Lock()
	c.seq++
	s := &space{client: c, number: c.seq, name: name, sink: sink}
	c.spaces[s.number] = s // before the call: events may come before the reply
	c.mu.Unlock()
	if _, err := c.call(ctx, request{Method: how, Space: s.number, Name: name}); err != nil {
		c.forget(s)
		return nil, err
	}
	return s, nil
}

func (c *Client) forget(s *space) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.spaces, s.number)
}

// Remove implements dlm.Engine.
func (c *Client) Remove(ctx context.Context, name string) error {
	_, err := c.call(ctx, request{Method: methodRemove, Name: name})
	return err
}

// Lockspaces implements dlm.Engine.
func (c *Client) Lockspaces(ctx context.Context) ([]string, error) {
	m, err := c.call(ctx, request{Method: methodLockspaces})
	if err != nil {
		return nil, err
	}
	return m.Names, nil
}

// Queues implements dlm.Looker.
func (c *Client) Queues(ctx context.Context, lockspace, resource string) (dlm.Queues, error) {
	m, err := c.call(ctx, request{Method: methodQueues, Name: lockspace, Resource: resource})
	if err != nil {
		return dlm.Queues{}, err
	}
	return m.Queues, nil
}

// QueuesOf implements dlm.Looker. It asks for one resource after the other.
func (c *Client) QueuesOf(ctx context.Context, lockspace string, resources []string) ([]dlm.Queues, error) {
	all := make([]dlm.Queues, len(resources))
	for i, name := range resources {
		var err error
		if all[i], err = c.Queues(ctx, lockspace, name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Orphans implements dlm.Looker.
func (c *Client) Orphans(ctx context.Context, lockspace string) ([]dlm.Orphan, error) {
	m, err := c.call(ctx, request{Method: methodOrphans, Name: lockspace})
	if err != nil {
		return nil, err
	}
	return m.Orphans, nil
}

// Users implements dlm.Looker.
func (c *Client) Users(ctx context.Context, lockspace string) ([]dlm.User, error) {
	m, err := c.call(ctx, request{Method: methodUsers, Name: lockspace})
	if err != nil {
		return nil, err
	}
	return m.Users, nil
}

// Health implements dlm.Looker.
func (c *Client) Health(ctx context.Context, lockspace string) (dlm.Health, error) {
	m, err := c.call(ctx, request{Method: methodHealth, Name: lockspace})
	if err != nil {
		return dlm.Health{}, err
	}
	return m.Health, nil
}

// Close closes the engine at the other end, which goes on to answer.
func (c *Client) Close() error {
	_, err := c.call(context.Background(), request{Method: methodCloseEngine})
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.spaces)
	return err
}

// space is one handle at the other end.
type space struct {
	client *Client
	number uint64
	name   string
	sink   dlm.Sink
}

func (s *space) Name() string { return s.name }

// tell sends an operation. If the other end is gone, it has no end.
func (s *space) tell(r request) {
	r.Space = s.number
	_ = s.client.send(&r)
}

func (s *space) Lock(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
	s.tell(request{Method: methodLock, Cookie: c, Resource: resource, Mode: m, Flags: f})
}

func (s *space) Convert(c dlm.Cookie, m dlm.Mode, f dlm.Flags, value *dlm.Value) {
	r := request{Method: methodConvert, Cookie: c, Mode: m, Flags: f}
	if value != nil {
		r.Value, r.HasValue = *value, true
	}
	s.tell(r)
}

func (s *space) Unlock(c dlm.Cookie, value *dlm.Value) {
	r := request{Method: methodUnlock, Cookie: c}
	if value != nil {
		r.Value, r.HasValue = *value, true
	}
	s.tell(r)
}

func (s *space) Cancel(c dlm.Cookie) { s.tell(request{Method: methodCancel, Cookie: c}) }

func (s *space) Adopt(c dlm.Cookie, resource string, m dlm.Mode, f dlm.Flags) {
	s.tell(request{Method: methodAdopt, Cookie: c, Resource: resource, Mode: m, Flags: f})
}

func (s *space) Purge() { s.tell(request{Method: methodPurge}) }

func (s *space) Close() error {
	_, err := s.client.call(context.Background(), request{Method: methodCloseSpace, Space: s.number})
	s.client.forget(s)
	return err
}
