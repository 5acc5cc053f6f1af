package lockd

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/process"
	"github.com/dlmlock/dlmlockd/state"
)

var update = flag.Bool("update", false, "write what the scenarios print into their files")

// TestScenarios plays testdata/scenarios/*.txt: a command, "----", what it
// prints, an empty line. The clock stands still but for "sleep"; each command
// has come to rest before the next, but for one after "&". The first line of a
// file says what it guards. The commands are in scenario.run.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/scenarios/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			require.NoError(t, err)
			var got []byte
			synctest.Test(t, func(t *testing.T) { got = playScenario(t, want) })
			if *update {
				require.NoError(t, os.WriteFile(f, got, 0o644))
				return
			}
			require.Equal(t, string(want), string(got), "go test ./lockd -run Scenarios -update writes the new output")
		})
	}
}

// playScenario returns the file with the output that the commands really had.
func playScenario(t *testing.T, file []byte) []byte {
	s := newScenario(t)
	defer s.end()
	var out bytes.Buffer
	var command []string
	skipping := false
	for line := range strings.SplitSeq(strings.TrimRight(string(file), "\n"), "\n") {
		switch {
		case skipping:
			skipping = line != ""
		case line == "----":
			skipping = true
			for _, c := range command {
				s.run(strings.Fields(strings.TrimPrefix(c, "&")))
				if !strings.HasPrefix(c, "&") {
					synctest.Wait()
				}
			}
			synctest.Wait()
			fmt.Fprintf(&out, "----\n%s\n", s.drain())
			command = nil
		default:
			out.WriteString(line + "\n")
			if line != "" && !strings.HasPrefix(line, "#") {
				command = append(command, line)
			}
		}
	}
	require.Empty(t, command, "the last command has no ----")
	return append(bytes.TrimRight(out.Bytes(), "\n"), '\n')
}

// scenario is the state of one file: a cluster of two nodes, a daemon on each.
type scenario struct {
	t       *testing.T
	cluster *local.Cluster
	hosts   map[string]*host
	daemons map[string]*daemon
	callers map[string]api.Caller
	procs   *fakeProcesses
	tokens  map[string]uint64  // the last one by resource
	pending map[string]api.Ref // the last Request by caller

	mu  sync.Mutex
	out bytes.Buffer
}

func newScenario(t *testing.T) *scenario {
	s := &scenario{t: t, cluster: local.NewCluster("test"), hosts: map[string]*host{}, daemons: map[string]*daemon{},
		callers: map[string]api.Caller{"root": root}, tokens: map[string]uint64{}, pending: map[string]api.Ref{},
		procs: &fakeProcesses{alive: map[process.ID]uint32{}, watched: map[process.ID]func(process.ID, process.State, error){}, held: map[process.ID]int{}}}
	for i, name := range []string{"n1", "n2"} {
		h := newHost(s.cluster.AddNode(uint32(i + 1)))
		h.config.Notify = func(n api.Notice) { s.notice(name, n) }
		h.config.Limits, h.config.Processes = api.DefaultLimits(), s.procs
		h.config.HealthInterval = time.Second + time.Duration(i)*time.Millisecond // one after the other
		s.hosts[name] = h
	}
	return s
}

func (s *scenario) end() {
	for _, d := range s.daemons {
		d.stop()
	}
}

func (s *scenario) printf(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(&s.out, format+"\n", a...)
}

func (s *scenario) drain() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.out.String()
	s.out.Reset()
	var entries []string // a line with the indented ones after it
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") && len(entries) > 0 {
			entries[len(entries)-1] += line
		} else {
			entries = append(entries, line)
		}
	}
	// The daemons of two nodes race, and so do lockspaces that are joined side
	// by side: put them in one order.
	rank := func(e string) string {
		head, _, _ := strings.Cut(e, " ")
		node := "1"
		if strings.HasPrefix(head, "n2:") || strings.HasSuffix(head, "@n2:") {
			node = "2"
		}
		if strings.Contains(e, "signal LockspaceChanged") {
			return node + " " + e
		}
		return node
	}
	slices.SortStableFunc(entries, func(a, b string) int {
		ra, rb := rank(a), rank(b)
		if ra[0] != rb[0] || len(ra) > 1 && len(rb) > 1 {
			return strings.Compare(ra, rb)
		}
		return 0
	})
	return strings.Join(entries, "")
}

func (s *scenario) notice(node string, n api.Notice) {
	switch n := n.(type) {
	case api.LockAdded:
		s.printf("%s: added %s", node, describe(n.LockInfo))
	case api.LockChanged:
		s.printf("%s: changed %s", node, describe(n.LockInfo))
	case api.LockRemoved:
		s.printf("%s: removed %s", node, describe(n.LockInfo))
	case api.LockLost:
		s.printf("%s: signal LockLost %s (%s)", node, describe(n.LockInfo), n.Reason)
	case api.BlockingNotice:
		s.printf("%s: signal Blocking to %s: %s is in the way of %s of node %d", node, s.nameOf(n.Session, node), describe(n.LockInfo), n.Blocked, n.Node)
	case api.LockspaceChanged:
		gone := ""
		if n.Gone {
			gone = " gone"
		}
		s.printf("%s: signal LockspaceChanged %s %s%s%s %s", node, n.Name, n.State, gone, health(n.Health), n.Error)
	case api.StatusChanged:
		if n.Degraded != "" {
			s.printf("%s: degraded: %s", node, n.Degraded)
		}
	}
}

func health(h dlm.Health) string {
	s := ""
	if h.Stopped {
		s = " stopped: " + h.Reason
	}
	if h.Known && !h.Quorate {
		s += " inquorate"
	}
	return s
}

func describe(l api.LockInfo) string {
	s := fmt.Sprintf("#%d %s/%s %s lkid=%d %s", l.Ref, l.Lockspace, l.Resource, l.Mode, l.LockID, l.State)
	if l.HasOwner {
		s += " owner=" + l.Owner
	}
	return s + fmt.Sprintf(" uid=%d", l.UID)
}

// args are the key=value words of a command.
type args map[string]string

func (s *scenario) parse(words []string) (plain []string, opts args) {
	opts = args{}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			opts[k] = v
		} else {
			plain = append(plain, w)
		}
	}
	return plain, opts
}

func (a args) num(key string) int {
	n, _ := strconv.Atoi(a[key])
	return n
}

// value is value=TEXT.
func (a args) value() *dlm.Value {
	text, ok := a["value"]
	if !ok {
		return nil
	}
	v := new(dlm.Value)
	copy(v[:], text)
	return v
}

func (a args) selector() api.Selector {
	owner, has := a["owner"]
	return api.Selector{Owner: owner, HasOwner: has, LockID: dlm.LockID(a.num("lkid"))}
}

func want(words []string) (w api.Want) {
	w.Lockspace, w.Resource, _ = strings.Cut(words[0], "/")
	w.Mode, _ = dlm.ParseMode(words[1])
	return w
}

// result prints the answer of a call.
func (s *scenario) result(who string, err error, format string, a ...any) {
	if err == nil {
		s.printf(who+": "+format, a...)
		return
	}
	e, _ := errors.AsType[*api.Error](err)
	s.printf("%s: %s: %s", who, e.Kind, e.Error())
	for _, c := range e.Candidates {
		s.printf("  candidate %s", describe(c))
	}
}

// run carries out one command. A caller may be followed by @n2 to ask there.
func (s *scenario) run(words []string) {
	verb := words[0]
	if s.runHost(verb, words[1:]) {
		return
	}
	plain, o := s.parse(words[1:])
	who := plain[0]
	name, node, ok := strings.Cut(who, "@")
	if !ok {
		node = "n1"
	}
	c, ok := s.callers[name]
	require.True(s.t, ok, "no caller %q", name)
	c.Session = s.hosts[node].session(":" + name)
	s.runCall(verb, who, c, s.daemons[node], plain[1:], o)
}

// nameOf is a session's name on the node's bus, or the whole session if it is of
// another one.
func (s *scenario) nameOf(session api.Session, node string) string {
	if name, ok := session.In(s.hosts[node].session("")); ok {
		return name
	}
	return string(session)
}

func (s *scenario) runCall(verb, who string, c api.Caller, d *daemon, p []string, o args) {
	wait, _ := time.ParseDuration(o["wait"])
	owner, hasOwner := o["owner"]
	opts := api.AcquireOptions{Owner: owner, HasOwner: hasOwner, Label: o["label"], Wait: wait, PID: uint32(o.num("pid"))}
	if start := o["start"]; start != "" {
		opts.Start, opts.HasStart = uint64(o.num("start")), true
	}
	opts.Value = o.value()
	switch o["lifetime"] {
	case "connection":
		opts.Lifetime = state.Connection
	case "process":
		opts.Lifetime = state.Process
	}
	switch verb {
	case "acquire": // CALLER LOCKSPACE/RESOURCE MODE [LOCKSPACE/RESOURCE MODE ...] [owner=] [label=] [wait=]
		var w []api.Want
		for pair := range slices.Chunk(p, 2) {
			w = append(w, want(pair))
		}
		d.Acquire(c, w, opts, func(g []api.Grant, err error) {
			var got []string
			for _, g := range g {
				got = append(got, fmt.Sprintf("#%d lkid=%d", g.Ref, g.LockID)+s.token(g, o))
			}
			s.result(who, err, "granted %s", strings.Join(got, ", "))
		})
	case "request": // CALLER LOCKSPACE/RESOURCE MODE [owner=] [lifetime=] [pid=]
		d.Request(c, want(p), opts, func(ref api.Ref, err error) {
			s.pending[who] = ref
			s.result(who, err, "request #%d waits", ref)
		}, func(g api.Grant, err error) { s.result(who, err, "request granted #%d lkid=%d", g.Ref, g.LockID) })
	case "cancel": // CALLER : its last request
		d.CancelRequest(c, s.pending[p[0]], func(err error) { s.result(who, err, "canceled") })
	case "position": // CALLER : of its last request
		d.Position(s.pending[who], func(n int) { s.printf("%s: position %d", who, n) })
	case "watch": // CALLER on|off
		d.Watch(p[0] == "on")
	case "snapshot": // CALLER
		d.Snapshot(100, func(spaces []api.LockspaceInfo, locks []api.LockInfo) {
			s.printf("%s: %d lockspaces, %d locks", who, len(spaces), len(locks))
			for _, l := range locks {
				s.printf("  %s", describe(l))
			}
		})
	case "sessions": // CALLER
		d.Sessions(func(sessions []api.Session) {
			var names []string
			for _, session := range sessions {
				name, _ := session.In(s.hosts["n1"].session(""))
				names = append(names, name)
			}
			s.printf("%s: bound to %v", who, names)
		})
	case "reconfigure": // CALLER LOCKSPACE...
		l := api.DefaultLimits()
		l.LocksPerUID = 1
		d.Reconfigure(Settings{Limits: l, Lockspaces: p})
	case "counters": // CALLER
		n := d.Status().Counters
		s.printf("%s: granted %d released %d converted %d lost %d refused %d canceled %d, %d answered with a grant in %v together", who,
			n.Granted, n.Released, n.Converted, n.Lost, n.Refused, n.Canceled, n.Latency.Count(), n.Latency.Sum)
	case "idle": // CALLER
		d.Idle(func(needed string) { s.printf("%s: needed because %q", who, needed) })
	case "convert": // CALLER LOCKSPACE/RESOURCE MODE [owner=] [lkid=] [wait=]
		d.Convert(c, want(p), o.selector(), api.ConvertOptions{Wait: wait, Value: o.value()}, func(g api.Grant, err error) {
			s.result(who, err, "converted #%d%s", g.Ref, s.token(g, o))
		})
	case "release": // CALLER LOCKSPACE/RESOURCE [owner=] [lkid=]
		w := want([]string{p[0], "NL"})
		d.Release(c, w.Lockspace, w.Resource, o.selector(), func(err error) { s.result(who, err, "released") })
	case "release-owner": // CALLER OWNER [in=LOCKSPACE]
		d.ReleaseOwner(c, o["in"], p[0], func(n uint32, err error) { s.result(who, err, "released %d", n) })
	case "release-many": // CALLER OWNER LOCKSPACE/RESOURCE... [label=]
		var resources []api.Want
		for _, r := range p[1:] {
			resources = append(resources, want([]string{r, "NL"}))
		}
		var labels []string
		if o["label"] != "" {
			labels = []string{o["label"]}
		}
		d.ReleaseMany(c, resources, p[0], labels, func(n uint32, err error) { s.result(who, err, "released %d", n) })
	case "join": // CALLER LOCKSPACE
		d.Join(c, p[0], func(err error) { s.result(who, err, "joined") })
	case "leave": // CALLER LOCKSPACE [force=yes]
		d.Leave(c, p[0], o["force"] != "", func(err error) { s.result(who, err, "left") })
	case "list": // CALLER
		d.List(api.Filter{}, func(page api.Page, err error) {
			s.result(who, err, "%d locks", len(page.Locks))
			for _, l := range page.Locks {
				s.printf("  %s", describe(l))
			}
		})
	case "inspect": // CALLER LOCKSPACE/RESOURCE
		w := want([]string{p[0], "NL"})
		d.Inspect(w.Lockspace, w.Resource, func(in api.Inspection, err error) { s.inspected(who, in, err) })
	case "orphans": // CALLER LOCKSPACE
		d.Orphans(p[0], func(found []api.Orphan, err error) {
			var plain []dlm.Orphan
			for _, o := range found {
				plain = append(plain, o.Orphan)
			}
			s.result(who, err, "orphans %v", plain)
		})
	case "purge": // CALLER LOCKSPACE LKID ...
		var ids []dlm.LockID
		for _, w := range p[1:] {
			n, _ := strconv.Atoi(w)
			ids = append(ids, dlm.LockID(n))
		}
		d.Purge(c, p[0], ids, false, func(n uint32, err error) { s.result(who, err, "purged %d", n) })
	case "vanish": // CALLER
		d.SessionGone(c.Session)
	default:
		require.Fail(s.t, "no such command", verb)
	}
}

// token prints, for token=show, what the fencing token did since the last one
// of the resource.
func (s *scenario) token(g api.Grant, o args) string {
	if o["token"] == "" {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.tokens[g.Resource]
	s.tokens[g.Resource] = g.Token
	switch {
	case g.Token < last:
		return " token went back"
	case g.Token == last:
		return " token same"
	}
	return " token larger"
}

func (s *scenario) inspected(who string, in api.Inspection, err error) {
	s.result(who, err, "%s/%s", in.Lockspace, in.Resource)
	for _, l := range in.Locks {
		s.printf("  here %s", describe(l))
	}
	for _, l := range in.Lost {
		s.printf("  lost %s (%s)", describe(l.LockInfo), l.Reason)
	}
	for _, q := range []struct {
		name string
		held []dlm.Held
	}{{"granted", in.Queues.Granted}, {"converting", in.Queues.Converting}, {"waiting", in.Queues.Waiting}} {
		for _, h := range q.held {
			s.printf("  %s node %d %s %s", q.name, h.Node, h.Mode, h.Wanted)
		}
	}
	for _, w := range in.Waits {
		s.printf("  %q of node %d for %s waits for %q of node %d in %s", w.Waiter.Who, w.Waiter.Node, w.Waiter.Mode, w.For.Who, w.For.Node, w.For.Mode)
	}
	switch text := strings.TrimRight(string(in.Value[:]), "\x00"); {
	case in.HasHolder:
		s.printf("  value: %s", in.Holder)
	case in.HasValue && text != "" && !strings.ContainsRune(text, 0):
		s.printf("  value: %q valid=%v", text, !in.ValueInvalid)
	}
	for _, m := range in.Missing {
		s.printf("  missing: %s", m)
	}
}

// runHost carries out a command about nodes and daemons; false if it is none.
func (s *scenario) runHost(verb string, words []string) bool {
	plain, o := s.parse(words)
	at := func() *host { return s.hosts[plain[0]] }
	switch verb {
	case "caller": // NAME [uid=] [pid=] : a connection of its own
		s.callers[plain[0]] = api.Caller{UID: uint32(o.num("uid")), PID: uint32(o.num("pid")), Privileged: o["uid"] == "0"}
	case "config": // NODE [locks-per-uid=] [waiting-per-uid=] [lockspaces=a,b]
		c := &at().config
		if o["raw"] != "" {
			c.RawValues = strings.Split(o["raw"], ",")
		}
		if o["lockspaces"] != "" {
			c.Lockspaces = strings.Split(o["lockspaces"], ",")
		}
		c.Limits.LocksPerUID = cmpOr(o.num("locks-per-uid"), c.Limits.LocksPerUID)
		c.Limits.WaitingPerUID = cmpOr(o.num("waiting-per-uid"), c.Limits.WaitingPerUID)
	case "start": // NODE
		s.daemons[plain[0]] = at().spawn(s.t)
	case "bus": // NODE GUID : the daemon started next is on that bus
		at().bus = plain[1]
	case "stop": // NODE : in order
		s.daemons[plain[0]].stop()
		delete(s.daemons, plain[0])
	case "kill": // NODE : the daemon, as with SIGKILL
		s.daemons[plain[0]].kill(at())
		delete(s.daemons, plain[0])
	case "reboot": // NODE : the node crashes; its state file is kept
		s.daemons[plain[0]].kill(at())
		delete(s.daemons, plain[0])
		at().node.Crash()
		id := at().node.ID()
		at().node, at().boot = s.cluster.AddNode(id), "boot-0"
	case "halt": // LOCKSPACE REASON : stop the lockspace on all nodes
		s.cluster.Stop(plain[0], strings.Join(plain[1:], " "))
	case "resume": // LOCKSPACE
		s.cluster.Resume(plain[0])
	case "quorate": // yes|no
		s.cluster.SetQuorate(plain[0] == "yes")
	case "unlock-behind": // NODE LOCKSPACE LKID : another process unlocks it
		n, _ := strconv.Atoi(plain[2])
		at().node.Unlock(plain[1], dlm.LockID(n))
	case "rejoin-behind": // NODE LOCKSPACE : dlm_tool leave and join
		e := at().node.Engine()
		if err := e.Remove(s.t.Context(), plain[1]); !errors.Is(err, dlm.ErrNoLockspace) {
			require.NoError(s.t, err)
		}
		_, err := e.Create(s.t.Context(), plain[1], func(dlm.Event) {})
		require.NoError(s.t, err)
		require.NoError(s.t, e.Close()) // it stays a member
	case "there": // NODE : the lockspaces that it is a member of
		names, err := at().node.Engine().Lockspaces(s.t.Context())
		require.NoError(s.t, err)
		s.printf("%s is in %s", plain[0], strings.Join(names, ", "))
	case "leave-behind": // NODE LOCKSPACE : dlm_tool leave
		require.NoError(s.t, at().node.Engine().Remove(s.t.Context(), plain[1]))
	case "disk": // NODE full|broken|ok
		at().journal.SetFail(map[string]syscall.Errno{"full": syscall.ENOSPC, "broken": syscall.EIO, "ok": 0}[plain[1]])
	case "process": // PID START [uid=]
		pid, _ := strconv.Atoi(plain[0])
		start, _ := strconv.Atoi(plain[1])
		s.procs.mu.Lock()
		s.procs.alive[process.ID{PID: uint32(pid), Start: uint64(start)}] = uint32(o.num("uid"))
		s.procs.mu.Unlock()
	case "blind": // ERRNO|no : no process can be looked at
		s.procs.mu.Lock()
		s.procs.blind = map[string]error{"EMFILE": &process.Error{PID: 41, Op: "pidfd_open", Errno: syscall.EMFILE}}[plain[0]]
		s.procs.mu.Unlock()
	case "held": // how many processes are held for calls
		s.procs.mu.Lock()
		s.printf("held %d, watched %d", len(s.procs.held), len(s.procs.watched))
		s.procs.mu.Unlock()
	case "degraded": // NODE
		s.printf("%s: degraded %q", plain[0], s.daemons[plain[0]].Status().Degraded)
	case "exit": // PID
		pid, _ := strconv.Atoi(plain[0])
		s.procs.end(uint32(pid))
	case "sleep": // DURATION
		d, err := time.ParseDuration(plain[0])
		require.NoError(s.t, err)
		time.Sleep(d)
	case "file": // NODE : what the state file says
		c := at().journal.Contents("")
		for _, l := range c.Locks {
			s.printf("lock #%d %s/%s %s lkid=%d phase=%d owner=%q", l.ID, l.Lockspace, l.Resource, l.Mode, l.LockID, l.Phase, l.Owner)
		}
		for _, sp := range c.Spaces {
			s.printf("lockspace %s phase=%d anchor=%d", sp.Name, sp.Phase, sp.AnchorID)
		}
	default:
		return false
	}
	return true
}

func cmpOr(a, b int) int {
	if a != 0 {
		return a
	}
	return b
}
