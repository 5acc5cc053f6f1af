package lab_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/internal/story"
	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/service"
)

var update = flag.Bool("update", false, "write what the stories print into their files")

// commandTime bounds one step of a test on a node that may be busy, untilTime a wait
// for something to become so.
const (
	commandTime = 2 * time.Minute
	untilTime   = 3 * time.Minute
)

// playStories plays the stories that belong to a cluster, one after the other:
// those of package story that need as many nodes, or fewer where no other cluster
// plays them. Stories that nodes don't survive are played when last is set.
func playStories(t *testing.T, r *serviceRig, kernel string, last bool) {
	stories, err := story.Load("../internal/story/testdata/stories")
	require.NoError(t, err)
	played := 0
	for _, s := range stories {
		if !r.suits(s, kernel, last) {
			continue
		}
		played++
		t.Run(s.Name, func(t *testing.T) {
			r.fresh(t)
			place := newPlace(t, r)
			defer place.end()
			story.Play(t, s, place, *update)
		})
	}
	require.NotZero(t, played)
}

// suits reports whether a story belongs to a cluster.
func (r *serviceRig) suits(s *story.Story, kernel string, last bool) bool {
	if s.Places&story.Nodes == 0 || s.Last != last || s.Kernel != "" && s.Kernel != kernel {
		return false
	}
	nodes := len(r.cluster.Nodes())
	return s.Fenced == r.fencing && (s.Nodes == nodes || s.Nodes < nodes && nodes == 2)
}

// place is the lab as the place of one story: it implements story.Backend.
type place struct {
	t       *testing.T
	rig     *serviceRig
	peers   map[int]*peerProcess   // processes that use libdlm by themselves
	holders map[int]*peerProcess   // those that have a lock
	crowds  map[int]*client.Client // whose Requests wait
	saved   map[int][]byte         // state files put aside
	configs map[int]*daemonSettings

	mu   sync.Mutex        // guards pids, which jobs use as well
	pids map[string]uint32 // of processes by "node/name"
}

var _ story.Backend = (*place)(nil)

func newPlace(t *testing.T, r *serviceRig) *place {
	p := &place{t: t, rig: r, peers: map[int]*peerProcess{}, holders: map[int]*peerProcess{},
		crowds: map[int]*client.Client{}, saved: map[int][]byte{}, configs: map[int]*daemonSettings{},
		pids: map[string]uint32{}}
	for _, n := range r.cluster.Nodes() {
		p.configs[n.ID] = defaultSettings()
	}
	return p
}

func (p *place) end() {
	p.rig.openFenceGate()
	for _, proc := range slices.Concat(slices.Collect(maps.Values(p.peers)), slices.Collect(maps.Values(p.holders))) {
		proc.close()
	}
	for _, c := range p.crowds {
		c.Close()
	}
}

// Place implements story.Backend.
func (p *place) Place() story.Place { return story.Nodes }

// Settle implements story.Backend. It does nothing: there is no way to know when nodes
// have come to rest.
func (p *place) Settle() {}

// Running implements story.Backend.
func (p *place) Running(node int) bool { return p.rig.services[node].Running() }

// Process implements story.Backend. The client looks up the start time itself.
func (p *place) Process(node int, name string) (pid uint32, start uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pid, ok = p.pids[fmt.Sprintf("%d/%s", node, name)]
	return pid, 0, ok
}

// callersGroup is the group of callers other than root: users.
const callersGroup = 100

// admitCallers gives an account to each user that a story calls as, because a message
// bus refuses users without one, and has polkit allow them what their own locks need.
func admitCallers(ctx context.Context, n *lab.Node) error {
	root, err := lab.Repository()
	if err != nil {
		return err
	}
	policy, err := os.ReadFile(filepath.Join(root, "data/org.example.DlmLock.policy"))
	if err != nil {
		return err
	}
	const rule = `polkit.addRule(function(action, subject) {
    if (action.id.indexOf("org.example.DlmLock.") == 0 && action.id != "org.example.DlmLock.release-others") {
        return polkit.Result.YES;
    }
});
`
	for path, text := range map[string]string{
		"/usr/share/polkit-1/actions/org.example.DlmLock.policy": string(policy),
		"/etc/polkit-1/rules.d/50-stories.rules":                 rule,
	} {
		if err := n.Put(ctx, path, 0o644, []byte(text)); err != nil {
			return err
		}
	}
	_, err = n.Shell(ctx, fmt.Sprintf(`for uid in 1000 1001; do getent passwd $uid >/dev/null ||
		echo "story$uid:x:$uid:%d::/:/usr/sbin/nologin" >>/etc/passwd; done`, callersGroup))
	return err
}

// Dial implements story.Backend.
func (p *place) Dial(ctx context.Context, c story.Caller, node int) (story.Service, error) {
	s := p.rig.services[node]
	conn, err := s.DialAs(ctx, c.UID, callersGroup)
	if err != nil {
		return nil, err
	}
	conn.AutoStart(false)
	return caller{conn}, nil
}

// caller is a client as stories see it.
type caller struct{ *client.Client }

func (c caller) options(o story.Options) (client.Options, error) {
	if o.Start != 0 {
		return client.Options{}, errors.New("package client takes the start time of a process from /proc")
	}
	return client.Options{Owner: o.Owner, Label: o.Label, Lifetime: o.Lifetime, PID: o.PID, Value: o.Value,
		Wait: o.Wait}, nil
}

// Acquire implements story.Service.
func (c caller) Acquire(ctx context.Context, w client.Want, o story.Options) (client.Grant, error) {
	options, err := c.options(o)
	if err != nil {
		return client.Grant{}, err
	}
	return c.Client.Acquire(ctx, w, options)
}

// AcquireMany implements story.Service.
func (c caller) AcquireMany(ctx context.Context, want []client.Want, o story.Options) ([]client.Grant, error) {
	options, err := c.options(o)
	if err != nil {
		return nil, err
	}
	return c.Client.AcquireMany(ctx, want, options)
}

// ReleaseLabel implements story.Service.
func (c caller) ReleaseLabel(ctx context.Context, resources []client.Want, owner, label string) (uint32, error) {
	if label != "" {
		return 0, errors.New("package client does not release by label")
	}
	return c.ReleaseMany(ctx, resources, owner)
}

// daemonSettings are what a story can set of a daemon's configuration.
type daemonSettings struct {
	lockspaces, raw            []string
	locksPerUID, waitingPerUID string
}

func defaultSettings() *daemonSettings {
	return &daemonSettings{lockspaces: []string{"vms"}, raw: []string{"raw"}}
}

// text is the configuration file.
func (d *daemonSettings) text() string {
	text := fmt.Sprintf("lockspaces = %s\nraw-value-lockspaces = %s\nop-timeout = \"6s\"\n",
		tomlList(d.lockspaces), tomlList(d.raw))
	if d.locksPerUID+d.waitingPerUID != "" {
		text += "[limits]\n"
	}
	if d.locksPerUID != "" {
		text += "locks-per-uid = " + d.locksPerUID + "\n"
	}
	if d.waitingPerUID != "" {
		text += "waiting-per-uid = " + d.waitingPerUID + "\n"
	}
	return text
}

func tomlList(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// configure changes what the next daemon of a node reads.
func (p *place) configure(ctx context.Context, c *story.Command) error {
	d := p.configs[c.Node]
	if text, ok := c.Options["lockspaces"]; ok {
		d.lockspaces = strings.Split(text, ",")
	}
	if text, ok := c.Options["raw"]; ok {
		d.raw = strings.Split(text, ",")
	}
	if text, ok := c.Options["locks-per-uid"]; ok {
		d.locksPerUID = text
	}
	if text, ok := c.Options["waiting-per-uid"]; ok {
		d.waitingPerUID = text
	}
	return p.rig.services[c.Node].Configure(ctx, d.text())
}

// daemonLog is everything that the daemons of a node have said in this story.
func (p *place) daemonLog(n *lab.Node) (string, error) {
	text, err := os.ReadFile(filepath.Join(p.rig.cluster.Artefacts(), n.Name+"."+service.LogName))
	if err != nil {
		return "", err
	}
	return string(text[p.rig.logStart[n.ID]:]), nil
}
