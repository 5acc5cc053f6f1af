package peers

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// List implements api.Peers. The refs in the page are those of the other node: they name a lock
// only together with the node.
func (p *Peers) List(node uint32, f api.Filter, done func(api.Page, error)) {
	q := question{List: filterOf(&f)}
	p.ask(node, q, func(r *reply, err error) {
		if err != nil {
			done(api.Page{}, err)
			return
		}
		locks, err := infos(r.Locks)
		if err != nil {
			done(api.Page{}, unavailable(q.op(), node, unreadable))
			return
		}
		done(api.Page{Locks: locks, Next: api.Ref(r.Next), Looked: len(locks)}, nil)
	})
}

// Inspect implements api.Peers.
func (p *Peers) Inspect(node uint32, lockspace, resource string, done func(api.Inspection, error)) {
	q := question{Inspect: &inspectBody{[]byte(lockspace), []byte(resource)}}
	p.ask(node, q, func(r *reply, err error) {
		if err == nil && r.Inspect == nil {
			err = unavailable(q.op(), node, unreadable)
		}
		var in api.Inspection
		if err == nil {
			if in, err = r.Inspect.inspection(lockspace, resource); err != nil {
				err = unavailable(q.op(), node, unreadable)
			}
		}
		done(in, err)
	})
}

// membersTimeout bounds a look at the members of the cluster.
const membersTimeout = 2 * time.Second

// Nodes implements api.Peers. It starts a goroutine, because corosync may be slow to answer and
// the caller must not wait.
func (p *Peers) Nodes(done func([]api.NodeView, error)) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), membersTimeout)
		defer cancel()
		members, err := p.cfg.Members(ctx)
		done(p.nodes(members, err), nil)
	}()
}

// nodes puts together what three sources say, each of which overrides the one before: the
// configuration of corosync (which nodes there could be), the cluster (which are there), and
// the group (which answer). A node is never left out because a source could not be asked; it
// is then in the list with the reason in Missing.
func (p *Peers) nodes(members []uint32, unknown error) []api.NodeView {
	st := p.cfg.Service.Status()
	names := st.Names.Map()
	views := map[uint32]*api.NodeView{}
	view := func(id uint32) *api.NodeView {
		if views[id] == nil {
			views[id] = &api.NodeView{ID: id, Name: names[id]}
		}
		return views[id]
	}
	for id := range names {
		v := view(id)
		switch {
		case unknown != nil:
			v.Missing = "it is not known whether it is a member of the cluster: " + unknown.Error()
		case !slices.Contains(members, id):
			v.Missing = "it is not a member of the cluster now: it is down, or cut off"
		}
	}
	for _, id := range members {
		view(id).Missing = noService
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		v := view(m.Node)
		// A node may have two members for a moment, when its service was started again; the
		// new one has not said hello yet.
		v.Answers, v.Missing, v.Version = true, "", cmp.Or(v.Version, p.builds[m])
	}
	if st.Node.ID != 0 {
		v := view(st.Node.ID)
		v.Self, v.Answers, v.Missing, v.Version = true, true, "", p.cfg.Build
	}
	var all []api.NodeView
	for _, v := range views {
		if p.why != "" && !v.Self {
			v.Missing = p.why
		}
		all = append(all, *v)
	}
	slices.SortFunc(all, func(a, b api.NodeView) int { return cmp.Compare(a.ID, b.ID) })
	return all
}
