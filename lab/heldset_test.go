package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/agent"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// What a lock protects: sets to which clients on three nodes add elements, each by
// reading the set and writing it back under a lock, while holders are paused, killed
// and cut off. An element is lost if its write was accepted and the set does not have
// it at the end.
//
// There are three sets, with a lock of their own each: one that relies on the lock
// alone, one whose storage checks fencing tokens (examples/fencedstore), and one whose
// holder is killed when the lock is lost. A fault happens to the holders of all three
// at once, between read and write, and the write comes as late as it can: when somebody
// else has written, or after the time of the fault. So what can go wrong does.
//
// The storage is on this machine, and reached from the nodes in a way of its own, as
// disks are: it is there when the network of the cluster is cut.

// The sets, by what protects them.
var setNames = []string{"alone", "token", "kill"}

// addsPerHold is how many elements a client adds each time that it has the lock.
const addsPerHold = 3

// storage is examples/fencedstore, the real program. Its own check of tokens is what
// protects a set; writes of the others come with a token that never changes.
type storage struct {
	address string
	mu      sync.Mutex // held while a set is read or written, and what was accepted is noted
	written map[string][]write
	refused map[string]int
	changed chan struct{} // closed when something was written
}

// write is one that the storage has accepted.
type write struct {
	element string
	by      *setClient
	at      time.Time
}

func startStorage(t *testing.T) *storage {
	dir := t.TempDir()
	program := filepath.Join(dir, "fencedstore")
	require.NoError(t, service.Go(t.Context(), "build", "-o", program, "./examples/fencedstore"))
	blocks := filepath.Join(dir, "blocks")
	require.NoError(t, os.Mkdir(blocks, 0o700))
	s := &storage{address: "127.0.0.1:" + freePort(t), written: map[string][]write{}, refused: map[string]int{},
		changed: make(chan struct{})}
	run(t, exec.CommandContext(t.Context(), program, "--listen="+s.address, "--dir="+blocks))
	require.Eventually(t, func() bool { _, err := s.read("alone"); return err == nil }, commandTime, 20*time.Millisecond)
	return s
}

func (s *storage) request(method, set, token, text string) (string, int, error) {
	r, err := http.NewRequest(method, "http://"+s.address+"/blocks/"+set, strings.NewReader(text))
	if err != nil {
		return "", 0, err
	}
	r.Header.Set("Fencing-Token", token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), resp.StatusCode, err
}

func (s *storage) read(set string) (string, error) {
	text, status, err := s.request(http.MethodGet, set, "", "")
	if status == http.StatusNotFound {
		return "", nil
	}
	return text, err
}

// readUnder is a read by a holder. It returns why it was refused, or "".
func (s *storage) readUnder(set, token string) (text, refused string, err error) {
	if set != "token" {
		token = "1"
	}
	text, status, err := s.request(http.MethodGet, set, token, "")
	switch {
	case err != nil:
		return "", "", err
	case status == http.StatusPreconditionFailed:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refused[set]++
		return "", text, nil
	case status != http.StatusOK:
		return "", "", fmt.Errorf("%d %s", status, text)
	}
	return text, "", nil
}

// write returns why the write was refused, or "".
func (s *storage) write(set, token, text string, by *setClient) (string, error) {
	if set != "token" {
		token = "1"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	body, status, err := s.request(http.MethodPut, set, token, text)
	switch {
	case err != nil:
		return "", err
	case status == http.StatusPreconditionFailed:
		s.refused[set]++
		return body, nil
	case status != http.StatusNoContent:
		return "", fmt.Errorf("%d %s", status, body)
	}
	lines := strings.Fields(text)
	s.written[set] = append(s.written[set], write{lines[len(lines)-1], by, time.Now()})
	close(s.changed)
	s.changed = make(chan struct{})
	return "", nil
}

// count returns how many elements were written, and how many of them are lost.
func (s *storage) count(set string) (written, lost, refused int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text, err := s.read(set)
	there := map[string]bool{}
	for _, element := range strings.Fields(text) {
		there[element] = true
	}
	for _, w := range s.written[set] {
		if !there[w.element] {
			lost++
		}
	}
	return len(s.written[set]), lost, s.refused[set], err
}

// after returns when somebody other than a client has written since a time, or zero.
func (s *storage) after(set string, at time.Time, not *setClient) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.written[set] {
		if w.by != not && w.at.After(at) {
			return w.at
		}
	}
	return time.Time{}
}

func (s *storage) change() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// setMessage is a line of cmd/heldset.
type setMessage struct {
	Op    string `json:"op"`
	Token string `json:"token,omitempty"`
	Text  string `json:"text,omitempty"`
	Error string `json:"error,omitempty"`
	Hold  int    `json:"hold,omitempty"`
}

// setClient is a client on a node, which has one set.
type setClient struct {
	rig  *setRig
	node int
	set  string
	in   chan setMessage // to the client; the node may stand still
	gone chan struct{}   // closed: the client has ended, with its node

	mu   sync.Mutex
	over chan struct{} // closed: the updater that was caught has ended
	hold int           // its number
}

func (c *setClient) tell(m setMessage) {
	select {
	case c.in <- m:
	case <-c.gone:
	}
}

// serve passes on what updaters ask.
func (c *setClient) serve(out io.Reader) {
	for lines := json.NewDecoder(out); ; {
		var m setMessage
		if err := lines.Decode(&m); err != nil {
			close(c.gone)
			return
		}
		switch m.Op {
		case "get":
			text, refused, err := c.rig.storage.readUnder(c.set, m.Token)
			if err != nil {
				c.rig.failed(err)
			}
			if refused != "" || !c.rig.catch(c, m.Hold, text) {
				c.tell(setMessage{Op: "answer", Text: text, Error: refused, Hold: m.Hold})
			}
		case "put":
			refused, err := c.rig.storage.write(c.set, m.Token, m.Text, c)
			if err != nil {
				c.rig.failed(err)
			}
			c.rig.logf("node %d, %s: wrote under %s: %q", c.node, c.set, m.Token, refused)
			c.tell(setMessage{Op: "answer", Error: refused, Hold: m.Hold})
		case "over":
			c.mu.Lock()
			if c.over != nil && c.hold == m.Hold {
				close(c.over)
				c.over = nil
			}
			c.mu.Unlock()
		case "ended":
			c.rig.logf("node %d, %s: %s", c.node, c.set, m.Error)
		}
	}
}

// setRig is the sets, with clients on all nodes.
type setRig struct {
	t       *testing.T
	cluster *lab.Cluster
	locks   locks
	storage *storage
	log     *os.File
	program string // cmd/heldset

	over atomic.Bool // the storage ends before the nodes do

	mu      sync.Mutex
	clients map[int][]*setClient
	victim  int // node whose holders are caught at their next read, or 0
	caught  map[string]*caughtHolder
	all     chan struct{} // closed when all sets' holders are caught
}

// caughtHolder is one that has read the set and has no answer yet.
type caughtHolder struct {
	*setClient
	hold int
	text string
	over <-chan struct{}
}

func (r *setRig) logf(format string, args ...any) {
	fmt.Fprintf(r.log, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05.000")}, args...)...)
}

// failed notes an error of the storage.
func (r *setRig) failed(err error) {
	if !r.over.Load() {
		r.t.Error(err)
	}
}

// catch keeps a holder on the victim's node, once for each set, and returns whether it
// has.
func (r *setRig) catch(c *setClient, hold int, text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.victim != c.node || r.caught[c.set] != nil {
		return false
	}
	over := make(chan struct{})
	c.mu.Lock()
	c.over, c.hold = over, hold
	c.mu.Unlock()
	r.caught[c.set] = &caughtHolder{c, hold, text, over}
	if len(r.caught) == len(setNames) {
		r.victim = 0
		close(r.all)
	}
	return true
}

// catchHolders returns holders of all sets on a node, who stand between read and write.
func (r *setRig) catchHolders(ctx context.Context, node int) (map[string]*caughtHolder, error) {
	r.mu.Lock()
	r.victim, r.caught, r.all = node, map[string]*caughtHolder{}, make(chan struct{})
	caught, all := r.caught, r.all
	r.mu.Unlock()
	select {
	case <-all:
		return caught, nil
	case <-ctx.Done():
		r.mu.Lock()
		defer r.mu.Unlock()
		return nil, fmt.Errorf("%w: %d of %d holders on node %d", context.Cause(ctx), len(caught), len(setNames), node)
	}
}

// startClients starts a client for each set on a node.
func (r *setRig) startClients(ctx context.Context, n *lab.Node) error {
	if err := n.Push(ctx, r.program, heldsetPath); err != nil {
		return err
	}
	var clients []*setClient
	for _, set := range setNames {
		c := &setClient{rig: r, node: n.ID, set: set, in: make(chan setMessage, 8), gone: make(chan struct{})}
		socket := "/run/heldset-" + set
		update := []string{heldsetPath, "update", socket, fmt.Sprint(addsPerHold)}
		name := fmt.Sprintf("n%d-%x", n.ID, time.Now().UnixMilli())
		argv := slices.Concat([]string{heldsetPath, "client", name, socket}, r.locks.command(set), update)
		out, from := io.Pipe()
		p, err := n.Start(ctx, agent.Command{Argv: argv, Env: r.locks.environment(), Stdout: from,
			Stderr: &prefixed{r, fmt.Sprintf("node %d, %s", n.ID, set)}})
		if err != nil {
			return err
		}
		go func() {
			<-p.Done()
			from.Close()
		}()
		go func() {
			for lines := json.NewEncoder(p); ; {
				select {
				case m := <-c.in:
					_ = lines.Encode(m)
				case <-c.gone:
					return
				}
			}
		}()
		go c.serve(out)
		clients = append(clients, c)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clients[n.ID] = clients
	return nil
}

const heldsetPath = "/usr/local/bin/heldset"

// prefixed writes what a client says into the log.
type prefixed struct {
	rig *setRig
	who string
}

func (p *prefixed) Write(text []byte) (int, error) {
	p.rig.logf("%s: %s", p.who, bytes.TrimSpace(text))
	return len(text), nil
}
