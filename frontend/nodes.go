package frontend

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// ListNodes lists the nodes of the cluster, and which of them can be asked.
type ListNodes struct{}

// Op implements Method.
func (*ListNodes) Op() string { return "list-nodes" }

// Cost implements Method.
func (*ListNodes) Cost() Cost { return Cost{Room: LongAnswer} }

// Validate implements Method.
func (*ListNodes) Validate() error { return nil }

// Run lists the nodes.
func (m *ListNodes) Run(c *Call, done func([]api.NodeView, error)) {
	if err := c.Authorize(api.ActInspect, About{Op: m.Op()}); err != nil {
		done(nil, err)
		return
	}
	c.core.elsewhere().Nodes(contained(c, done))
}

// CheckNode checks the number of a node that an argument of op is.
func CheckNode(op string, node uint32) error {
	if node == 0 {
		return invalid(op, badNode())
	}
	return nil
}

func badNode() error { return bad(api.ArgNode, "0 is not the number of a node") }

// isElsewhere reports whether a node is another one than this. 0 stands for this one.
func (c *Core) isElsewhere(node uint32) bool { return node != 0 && node != c.service.Status().Node.ID }

// elsewhere is the way to other nodes.
func (c *Core) elsewhere() api.Peers {
	if c.peers == nil {
		return alone{c}
	}
	return c.peers
}

// alone is the Peers of a service that asks nobody.
type alone struct{ core *Core }

const aloneText = "this service asks no other nodes: it uses the embedded engine, or all-nodes = false is set"

func (a alone) Nodes(done func([]api.NodeView, error)) {
	st := a.core.service.Status()
	var views []api.NodeView
	names := st.Names.Map()
	if _, named := names[st.Node.ID]; !named {
		names[st.Node.ID] = "" // it is listed all the same
	}
	for id := range names {
		v := api.NodeView{ID: id, Name: names[id], Self: id == st.Node.ID, Answers: id == st.Node.ID}
		if !v.Self {
			v.Missing = aloneText
		}
		views = append(views, v)
	}
	slices.SortFunc(views, func(a, b api.NodeView) int { return cmp.Compare(a.ID, b.ID) })
	done(views, nil)
}

func (a alone) List(node uint32, _ api.Filter, done func(api.Page, error)) {
	done(api.Page{}, a.refuse("list", node))
}

func (a alone) Inspect(node uint32, _, _ string, done func(api.Inspection, error)) {
	done(api.Inspection{}, a.refuse("inspect", node))
}

func (alone) refuse(op string, node uint32) error {
	return &api.Error{Op: op, Kind: api.ClusterUnavailable, Mode: dlm.None,
		Text: fmt.Sprintf("node %d can't be asked: %s", node, aloneText)}
}
