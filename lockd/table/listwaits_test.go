package table

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/dlm/local"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// pairOfNodes is the service on two nodes.
type pairOfNodes struct{ a, b *sim }

func newPair(t *testing.T, spaces ...string) *pairOfNodes {
	cluster := local.NewCluster("c")
	p := &pairOfNodes{newSim(t, cluster.AddNode(1), spaces...), newSim(t, cluster.AddNode(2), spaces...)}
	p.b.inst = "other"
	p.a.start()
	p.b.start()
	p.rest()
	return p
}

func (p *pairOfNodes) rest() {
	for range 4 {
		p.a.rest()
		p.b.rest()
	}
}

// request queues for a lock on one of the nodes.
func (p *pairOfNodes) request(s *sim, owner, space, resource string, m dlm.Mode) *simCall {
	c := s.request(api.Caller{UID: 7}, api.AcquireOptions{Owner: owner, HasOwner: true},
		api.Want{Lockspace: space, Resource: resource, Mode: m})
	p.rest()
	return c
}

// waits lists who waits on a node, in short.
func (p *pairOfNodes) waits(s *sim, f api.Filter) []string {
	c := s.call(Waits{Filter: f})
	p.rest()
	require.NoError(s.t, c.err)
	require.Equal(s.t, 1, c.answers)
	out := []string{}
	for _, w := range c.waits.Waiters {
		var who []string
		for _, b := range w.For {
			text := fmt.Sprintf("%s@%d %s", b.Who, b.Node, b.Mode)
			if b.Queued {
				text += " queued"
			}
			who = append(who, text)
		}
		out = append(out, fmt.Sprintf("%s/%s %s %s: %s", w.Lockspace, w.Resource, w.Who, w.Wanted, strings.Join(who, ", ")))
	}
	return out
}

// Those that wait on this node are listed with what each waits for, in all
// lockspaces: holders here and on other nodes, and those before them in the queue.
func TestListWaits(t *testing.T) {
	p := newPair(t, "one", "two")
	a, b := p.a, p.b
	require.Empty(t, p.waits(a, api.Filter{}))
	p.request(a, "vm1", "one", "disk", dlm.EX)
	p.request(b, "vm2", "one", "disk", dlm.EX)
	p.request(a, "vm3", "one", "disk", dlm.PR)
	p.request(b, "vm4", "two", "disk", dlm.PR)
	p.request(a, "vm5", "two", "disk", dlm.EX)
	p.request(a, "vm6", "one", "free", dlm.EX)
	shared := api.Want{Lockspace: "one", Resource: "shared", Mode: dlm.EX}
	p.request(a, "vm7", "one", "shared", dlm.PR)
	p.request(b, "vm8", "one", "shared", dlm.PR)
	a.convert(api.Caller{UID: 7}, shared, api.Selector{Owner: "vm7", HasOwner: true}, time.Minute)
	p.rest()

	require.Equal(t, []string{
		"one/disk vm3 PR: @2 EX queued", // vm2, whose name only node 2 knows
		"two/disk vm5 EX: ",             // node 2 keeps the queues, and holders in PR publish nothing
		"one/shared vm7 EX: @2 PR",
	}, p.waits(a, api.Filter{}))
	require.Equal(t, []string{"one/disk vm2 EX: vm1@1 EX"}, p.waits(b, api.Filter{}), "from the value block")
	require.Len(t, p.waits(a, api.Filter{Lockspace: "two"}), 1)
	require.Len(t, p.waits(a, api.Filter{Owner: "vm3", HasOwner: true}), 1)
	require.Empty(t, p.waits(a, api.Filter{Resource: "free"}))
	require.Empty(t, p.waits(a, api.Filter{UID: 8, HasUID: true}))
}

// Each waiter says since when it waits, and pages follow one another.
func TestListWaitsPages(t *testing.T) {
	p := newPair(t, "one")
	p.request(p.a, "vm0", "one", "disk", dlm.EX)
	var began []time.Time
	for i := 1; i <= 5; i++ {
		p.a.pass(time.Minute)
		began = append(began, p.a.now)
		p.request(p.a, fmt.Sprint("vm", i), "one", "disk", dlm.EX)
	}
	var since []time.Time
	f := api.Filter{Limit: 2}
	for pages := 1; ; pages++ {
		c := p.a.call(Waits{Filter: f})
		p.rest()
		for _, w := range c.waits.Waiters {
			since = append(since, w.Waiting)
			require.Len(t, w.For, 1)
		}
		if f.After = c.waits.Next; f.After == 0 {
			require.Equal(t, 3, pages)
			break
		}
	}
	require.Equal(t, began, since)
}

// Without lock tables it is still known who waits, and for what here.
func TestListWaitsWithoutTables(t *testing.T) {
	p := newPair(t, "one")
	p.request(p.a, "vm1", "one", "disk", dlm.EX)
	p.request(p.a, "vm2", "one", "disk", dlm.EX)
	p.a.blind = errors.New("debugfs is not mounted")
	require.Equal(t, []string{"one/disk vm2 EX: vm1@1 EX"}, p.waits(p.a, api.Filter{}))
	c := p.a.call(Waits{})
	p.rest()
	require.Equal(t, "debugfs is not mounted", c.waits.Waiters[0].Missing)
}

// A page on which all are granted before it is answered is no empty page.
func TestListWaitsGoesOn(t *testing.T) {
	p := newPair(t, "one")
	first := p.request(p.a, "vm1", "one", "disk", dlm.EX)
	p.request(p.a, "vm2", "one", "disk", dlm.EX)
	p.request(p.a, "vm3", "one", "other", dlm.EX)
	p.request(p.a, "vm4", "one", "other", dlm.EX)
	c := p.a.call(Waits{Filter: api.Filter{Limit: 1}})
	released := p.a.release(api.Caller{UID: 7}, "one", "disk", api.Selector{Ref: first.grants[0].Ref})
	for p.a.deliver() || p.a.write() { // no look is answered before the release
	}
	p.rest()
	require.NoError(t, released.err)
	require.Len(t, c.waits.Waiters, 1)
	require.Equal(t, "vm4", c.waits.Waiters[0].Who)
}
