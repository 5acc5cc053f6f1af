package dbus

import (
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// inspect is Inspect.
type inspect struct{ frontend.Inspect }

func parseInspect(body *reader) (request, error) {
	return &inspect{frontend.Inspect{Lockspace: body.text(), Resource: body.text()}}, nil
}

// parseInspectNode reads InspectNode, which is Inspect on another node. It is a method of its own
// because Inspect has no options.
func parseInspectNode(body *reader) (request, error) {
	node := body.uint32()
	r := &inspect{frontend.Inspect{Node: node, Lockspace: body.text(), Resource: body.text()}}
	return r, frontend.CheckNode(r.Op(), node)
}

func (r *inspect) serve(c *call) {
	r.Run(&c.Call, answer(c, func(in api.Inspection) []any { return []any{inspection(&in)} }))
}

// listNodes is ListNodes.
type listNodes struct{ frontend.ListNodes }

func parseListNodes(*reader) (request, error) { return new(listNodes), nil }

func (r *listNodes) serve(c *call) {
	r.Run(&c.Call, answer(c, func(nodes []api.NodeView) []any { return []any{nodeRows(nodes)} }))
}

// The answers of the lists are written by the send queue when it is their turn (write), because
// they are long: until then only the rows are in memory, and the user's room is counted.

// listLost is ListLost.
type listLost struct{ frontend.ListLost }

func parseListLost(body *reader) (request, error) {
	r := new(listLost)
	return r, parseOptions(r.Op(), frontend.ListLostOptions, body, &r.ListLost)
}

func (r *listLost) serve(c *call) {
	r.Run(&c.Call, func(lost []api.Lost, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.write(func(e *encoder) { e.lostRows(lost) })
	})
}

// listWaits is ListWaits.
type listWaits struct{ frontend.ListWaits }

func parseListWaits(body *reader) (request, error) {
	r := new(listWaits)
	return r, parseOptions(r.Op(), frontend.ListWaitsOptions, body, &r.ListWaits)
}

func (r *listWaits) serve(c *call) {
	r.Run(&c.Call, func(page api.WaitsPage, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.write(func(e *encoder) { e.waiterRows(page.Waiters) })
	})
}

// listLocks is ListLocks.
type listLocks struct{ frontend.ListLocks }

func parseListLocks(body *reader) (request, error) {
	r := new(listLocks)
	return r, parseOptions(r.Op(), frontend.ListOptions, body, &r.ListLocks)
}

func (r *listLocks) serve(c *call) {
	r.Run(&c.Call, func(page api.Page, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.write(func(e *encoder) { e.lockRows(page.Locks) })
	})
}
