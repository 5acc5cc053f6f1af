package peers

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// The bounds. A group of corosync delivers every message to every member, so what one node sends costs
// all of them; what does not fit is dropped, and the question fails by its time limit.
const (
	maxOpen     = 64  // questions of this node that are open
	maxAsked    = 32  // questions of others that wait to be answered
	maxOutgoing = 128 // messages that wait to be sent

	patience      = 3 * time.Second // how long an answer may take
	redial        = 5 * time.Second // between attempts to reach the group
	answersPerSec = 2 << 20         // bytes, of this node's answers
)

// Service is what others may ask about.
type Service interface {
	List(f api.Filter, done func(api.Page, error))
	Inspect(lockspace, resource string, done func(api.Inspection, error))
	Status() api.Status
}

// Config is what Peers is made of.
type Config struct {
	Service Service
	// Members lists the nodes that are members of the cluster now. An error means that it is not
	// known.
	Members func(context.Context) ([]uint32, error)
	Dial    func(context.Context) (Link, error) // reaches the relay
	Build   string                              // of this service; the other nodes show it
	Log     *slog.Logger
}

// Peers asks the services of the other nodes, and answers them while Run runs.
type Peers struct {
	cfg Config
	// outgoing outlives a link: messages that are still in it when the next link begins go to
	// the new group. Questions among them have failed by then, and their answers are dropped.
	outgoing chan []byte
	asked    chan asked
	wake     chan struct{} // a member has joined: say hello. One token is enough for any number of members

	mu      sync.Mutex
	self    Member   // zero: not in the group
	members []Member // of the group
	// builds has the builds that the members have reported, "" until they have. The key is the
	// process, because a service that was started again may have another version.
	builds  map[Member]string
	why     string           // why this process is not in the group
	open    map[uint64]*open // by the id that the answer repeats
	lastID  uint64           // of open; ids are not used again
	dropped int              // messages that were for nobody, or did not fit
}

// open is a question of this node without an answer. An answer, the timer, a change of the
// membership and the end of the link may all end it: whoever takes it out of Peers.open, under
// mu, calls done.
type open struct {
	op    string              // of question
	to    Member              // whose answer counts; one of another member is dropped
	done  func(*reply, error) // called once, without Peers.mu
	timer *time.Timer         // of patience
}

// asked is a question of another node.
type asked struct {
	from    Member
	id      uint64 // for the answer
	version uint8  // of the protocol, in which the answer is given
	body    []byte
}

var _ api.Peers = (*Peers)(nil)

// New makes a Peers that is not in the group yet.
func New(cfg Config) *Peers {
	return &Peers{cfg: cfg, outgoing: make(chan []byte, maxOutgoing), asked: make(chan asked, maxAsked),
		wake: make(chan struct{}, 1), open: map[uint64]*open{}, builds: map[Member]string{},
		why: "this node's service has just been started"}
}

// Run stays in the group, or tries to get into it, until ctx ends. A node without corosync tries for
// ever, and costs a connection attempt every few seconds.
func (p *Peers) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { p.answerAll(ctx) })
	work.Go(func() { p.report(ctx) })
	for ctx.Err() == nil {
		err := p.join(ctx)
		p.left(err)
		select {
		case <-ctx.Done():
		case <-time.After(redial):
		}
	}
}

// join is in the group until the link or ctx ends. One goroutine sends, and this one receives: a message
// is never answered here, so reading does not depend on what the service does.
func (p *Peers) join(ctx context.Context) error {
	link, err := p.cfg.Dial(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	context.AfterFunc(ctx, func() { _ = link.Close() })
	work.Go(func() { p.sendAll(ctx, link, cancel) })
	for {
		ev, err := link.Receive()
		if err != nil {
			return err
		}
		if ev.Data == nil {
			p.membership(ev)
		} else {
			p.receive(ev.From, ev.Data)
		}
	}
}

// sendAll sends what is to be sent. A link that takes no message is ended.
func (p *Peers) sendAll(ctx context.Context, link Link, end func()) {
	defer end()
	for {
		var data []byte
		select {
		case <-ctx.Done():
			return
		case data = <-p.outgoing:
		case <-p.wake:
			// To all members: when this process itself has joined, all of them are new to it.
			body, _ := json.Marshal(helloBody{p.cfg.Build})
			data = (&message{version: version, kind: hello, body: body}).encode()
		}
		if err := link.Send(data); err != nil {
			return
		}
	}
}

// membership takes who is in the group. Questions to those who have left it will get no answer.
func (p *Peers) membership(ev Event) {
	p.mu.Lock()
	joined := p.self == Member{} && ev.Self != Member{} // logged once for each link
	p.self, p.members, p.why = ev.Self, ev.Members, ""
	fresh := false
	for _, m := range ev.Members {
		if _, known := p.builds[m]; !known {
			p.builds[m], fresh = "", true
		}
	}
	for m := range p.builds {
		if !slices.Contains(ev.Members, m) {
			delete(p.builds, m)
		}
	}
	gone := p.takeOpen(func(o *open) bool { return !slices.Contains(ev.Members, o.to) })
	p.mu.Unlock()
	for _, o := range gone {
		o.done(nil, unavailable(o.op, o.to.Node, "it has left the cluster, or its service has ended, before it answered"))
	}
	if joined {
		p.cfg.Log.Info("the services of the other nodes can be asked", "members", len(ev.Members))
	}
	if fresh {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// left forgets the group, and says why once.
func (p *Peers) left(err error) {
	p.mu.Lock()
	was := p.self != Member{}
	told := p.why
	p.self, p.members, p.why = Member{}, nil, err.Error()
	clear(p.builds)
	gone := p.takeOpen(func(*open) bool { return true })
	p.mu.Unlock()
	for _, o := range gone {
		o.done(nil, unavailable(o.op, o.to.Node, err.Error()))
	}
	if was || told != err.Error() {
		p.cfg.Log.Info("the services of other nodes can't be asked", "err", err)
	}
}

// takeOpen removes open questions. It must be called with mu held.
func (p *Peers) takeOpen(which func(*open) bool) (taken []*open) {
	for id, o := range p.open {
		if which(o) {
			o.timer.Stop()
			delete(p.open, id)
			taken = append(taken, o)
		}
	}
	return taken
}

// unavailable is the error of a question to a node that can't be asked. It never means that the node
// holds no lock.
func unavailable(op string, node uint32, why string) error {
	return &api.Error{Op: op, Kind: api.ClusterUnavailable, Mode: dlm.None,
		Text: fmt.Sprintf("node %d can't be asked: %s", node, why)}
}

// receive takes a message of the group, its own included.
func (p *Peers) receive(from Member, data []byte) {
	m, err := decode(data)
	p.mu.Lock()
	self := p.self
	p.mu.Unlock()
	switch {
	case from == self: // corosync delivers to the sender, too
	case err != nil:
		p.drop()
	case !m.isFor(self):
	case m.kind == hello && m.version == version:
		p.greet(from, m.body)
	case m.kind == ask: // in any version: answerTo tells the sender which one it understands
		select {
		case p.asked <- asked{from, m.id, m.version, m.body}:
		default:
			p.drop()
		}
	case m.kind == answer && m.version == version:
		p.answered(from, m.id, m.body)
	}
}

func (p *Peers) drop() {
	p.mu.Lock()
	p.dropped++
	p.mu.Unlock()
}

// maxBuild is the longest version of a build that is believed.
const maxBuild = 100

func (p *Peers) greet(from Member, body []byte) {
	var h helloBody
	if json.Unmarshal(body, &h) != nil || len(h.Build) > maxBuild {
		p.drop()
		return
	}
	p.mu.Lock()
	if _, ok := p.builds[from]; ok {
		p.builds[from] = h.Build // a member that has left meanwhile is not remembered
	}
	p.mu.Unlock()
}

// answered takes an answer. Only an answer from the process that was asked counts: ids begin at 1
// in each service. A late answer to an earlier process of this node must not be taken for one to
// this process (isFor compares the pid), nor an answer from a member that invents ids.
func (p *Peers) answered(from Member, id uint64, body []byte) {
	p.mu.Lock()
	o := p.open[id]
	if o == nil || o.to != from {
		p.dropped++
		p.mu.Unlock()
		return
	}
	o.timer.Stop()
	delete(p.open, id)
	p.mu.Unlock()
	var r reply
	if err := json.Unmarshal(body, &r); err != nil {
		o.done(nil, unavailable(o.op, from.Node, unreadable))
		return
	}
	if e := r.Error; e != nil {
		o.done(nil, &api.Error{Op: o.op, Kind: kindOf(e.Kind), Mode: dlm.None,
			Text: fmt.Sprintf("node %d: %s", from.Node, e.Text)})
		return
	}
	o.done(&r, nil)
}

// kindOf passes the kinds that the answer to a question may have. All others, even those that a
// later version adds, become "the node can't be asked": a program here must not take, say, an
// AccessDenied or NotHeld of the other node for an answer about this node.
func kindOf(s string) api.Kind {
	for _, k := range []api.Kind{api.NoSuchLockspace, api.InvalidName, api.InvalidArgs, api.LimitExceeded,
		api.NotSupported, api.ShuttingDown} {
		if s == string(k) {
			return k
		}
	}
	return api.ClusterUnavailable
}

// ask sends a question to the service on a node. It calls done exactly once: immediately if the
// node can't be asked, and otherwise within patience. The question is in open, with its timer,
// before it is sent, because the answer may come before send returns.
func (p *Peers) ask(node uint32, q question, done func(*reply, error)) {
	body, err := json.Marshal(q)
	if err != nil {
		done(nil, unavailable(q.op(), node, err.Error()))
		return
	}
	p.mu.Lock()
	i := slices.IndexFunc(p.members, func(m Member) bool { return m.Node == node })
	var refusal error
	switch {
	case p.why != "":
		refusal = unavailable(q.op(), node, p.why)
	case i < 0:
		refusal = unavailable(q.op(), node, noService)
	case len(p.open) >= maxOpen:
		refusal = &api.Error{Op: q.op(), Kind: api.LimitExceeded, Mode: dlm.None, Hint: api.HintWait,
			Text: fmt.Sprintf("%d questions to other nodes are open", maxOpen)}
	}
	if refusal != nil {
		p.mu.Unlock()
		done(nil, refusal)
		return
	}
	p.lastID++
	id, o := p.lastID, &open{op: q.op(), to: p.members[i], done: done}
	p.open[id] = o
	o.timer = time.AfterFunc(patience, func() { p.giveUp(id, fmt.Sprintf("it does not answer within %v", patience)) })
	p.mu.Unlock()
	m := message{version: version, kind: ask, to: o.to, id: id, body: body}
	if !p.send(&m) {
		p.giveUp(id, "too many messages wait to be sent")
	}
}

// Reasons why a node can't be asked.
const (
	noService  = "no service there takes part: it does not run, is older than this one, or has all-nodes = false"
	unreadable = "its answer can't be read"
)

// giveUp ends a question, unless something else has ended it.
func (p *Peers) giveUp(id uint64, why string) {
	p.mu.Lock()
	o := p.open[id]
	delete(p.open, id)
	p.mu.Unlock()
	if o != nil {
		o.done(nil, unavailable(o.op, o.to.Node, why))
	}
}

// send puts a message into the queue, and never waits: if the queue is full, the link is slow or
// down, and the message is dropped.
func (p *Peers) send(m *message) bool {
	select {
	case p.outgoing <- m.encode():
		return true
	default:
		p.drop()
		return false
	}
}

// reportEvery is how often the log says that messages were dropped.
const reportEvery = time.Minute

func (p *Peers) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.mu.Lock()
		n := p.dropped
		p.dropped = 0
		p.mu.Unlock()
		if n > 0 {
			p.cfg.Log.Warn("messages of other nodes' services were dropped: too many, or not readable", "messages", n)
		}
	}
}
