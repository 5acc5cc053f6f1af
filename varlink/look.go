package varlink

import (
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/varlink/wire"
)

// inspect is Inspect.
type inspect struct {
	inspectIn
	silent
	m frontend.Inspect
}

func (i *inspect) method(*wire.Call) (frontend.Method, error) {
	i.m = frontend.Inspect{Lockspace: i.Lockspace, Resource: i.Resource}
	if i.NodeID != nil {
		i.m.Node = *i.NodeID
		return &i.m, frontend.CheckNode(i.m.Op(), i.m.Node)
	}
	return &i.m, nil
}

func (i *inspect) run(c *call) {
	i.m.Run(&c.Call, func(in api.Inspection, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.reply(inspectionOf(&in))
	})
}

// listLocks is ListLocks. It has the service list page after page, each when the
// client has read the one before.
type listLocks struct {
	listLocksIn
	silent
	m    frontend.ListLocks
	left uint64 // how many more
}

func (l *listLocks) method(*wire.Call) (frontend.Method, error) {
	s := setter[frontend.ListLocks]{table: frontend.ListOptions, into: &l.m}
	s.scope(&l.scope)
	given(&s, api.ArgMode, l.Mode)
	given(&s, api.ArgState, l.State)
	given(&s, api.ArgNode, l.NodeID)
	l.left = s.pages(&l.pages)
	return s.done("list")
}

func (l *listLocks) run(c *call) {
	l.m.Run(&c.Call, func(page api.Page, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.fill(func(c *call) error { return l.write(c, page) })
	})
}

// write runs on the connection's goroutine, where waiting for the client to read and for
// the service to list delays nobody else.
func (l *listLocks) write(c *call, page api.Page) error {
	return writePages(c, page.Locks, page.Next, &l.left, func(l *api.LockInfo) any { return listLocksOut{lockOf(l)} },
		func(after api.Ref) ([]api.LockInfo, api.Ref, error) {
			l.m.Filter.After = after
			page, err := next(c, l.m.Run)
			return page.Locks, page.Next, err
		}, missing("list", noSuchLock, "no lock matches"))
}

// writePages writes a page and those that follow it, an element with each reply, as
// many as are left. One element is kept back, because the last one has to be known
// as such: it goes out without "continues". Locks that come or go while a list is
// written may be in it or not; all others are, exactly once, since pages are in the
// order of api.Ref.
func writePages[T any](c *call, page []T, after api.Ref, left *uint64, reply func(*T) any,
	next func(after api.Ref) ([]T, api.Ref, error), none error) error {
	var before any
	for {
		for i := range page {
			if *left == 0 {
				break
			}
			*left--
			if before != nil {
				if err := c.stage(before); err != nil {
					return err
				}
			}
			before = reply(&page[i])
		}
		if after == 0 || *left == 0 {
			break
		}
		var err error
		if page, after, err = next(after); err != nil {
			return c.writeLate(err)
		}
	}
	if before == nil {
		return c.writeLate(none)
	}
	n, err := c.wire.Reply(before)
	c.pay(n)
	return err
}

// next has a method list its next page, and waits for it. The page needs no turn of its
// own, since it is a part of the same call; it is authorised like the first one.
func next[P any](c *call, run func(*frontend.Call, func(P, error))) (page P, err error) {
	done := make(chan struct{})
	run(&c.Call, func(p P, e error) {
		page, err = p, e
		close(done)
	})
	<-done
	return page, err
}

// listWaits is ListWaits. Its pages are those of ListLocks.
type listWaits struct {
	listWaitsIn
	silent
	m    frontend.ListWaits
	left uint64 // how many more
}

func (l *listWaits) method(*wire.Call) (frontend.Method, error) {
	s := setter[frontend.ListWaits]{table: frontend.ListWaitsOptions, into: &l.m}
	s.scope(&l.scope)
	l.left = s.pages(&l.pages)
	return s.done(l.m.Op())
}

func (l *listWaits) run(c *call) {
	l.m.Run(&c.Call, func(page api.WaitsPage, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		c.fill(func(c *call) error { return l.write(c, page) })
	})
}

func (l *listWaits) write(c *call, page api.WaitsPage) error {
	return writePages(c, page.Waiters, page.Next, &l.left, func(w *api.Waiter) any { return listWaitsOut{waiterOf(w)} },
		func(after api.Ref) ([]api.Waiter, api.Ref, error) {
			l.m.Filter.After = after
			page, err := next(c, l.m.Run)
			return page.Waiters, page.Next, err
		}, missing(l.m.Op(), noSuchLock, "nobody waits"))
}

// stage writes one of very many replies. Several go out with one system call.
func (c *call) stage(parameters any) error {
	n, err := c.wire.Stage(parameters)
	c.pay(n)
	return err
}

// writeLate ends a call with an error, on the connection's goroutine.
func (c *call) writeLate(err error) error {
	n, werr := writeError(c.wire, err)
	c.pay(n)
	return werr
}

// writeList writes a whole list, an element with each reply.
func writeList[T any](c *call, list []T, reply func(*T) any, none error) {
	if len(list) == 0 {
		c.Fail(none)
		return
	}
	c.fill(func(c *call) error {
		last := len(list) - 1
		for i := range last {
			if err := c.stage(reply(&list[i])); err != nil {
				return err
			}
		}
		n, err := c.wire.Reply(reply(&list[last]))
		c.pay(n)
		return err
	})
}

// listNodes is ListNodes.
type listNodes struct {
	silent
	m frontend.ListNodes
}

func (l *listNodes) method(*wire.Call) (frontend.Method, error) { return &l.m, nil }

func (l *listNodes) run(c *call) {
	l.m.Run(&c.Call, func(nodes []api.NodeView, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		writeList(c, nodes, func(n *api.NodeView) any { return listNodesOut{nodeOf(n)} },
			missing(l.m.Op(), api.ClusterUnavailable, "no node is known"))
	})
}

// listLost is ListLost.
type listLost struct {
	listLostIn
	silent
	m frontend.ListLost
}

// method sets the limit to all losses that are kept if the caller gives no limit, because a list of
// losses has no pages.
func (l *listLost) method(*wire.Call) (frontend.Method, error) {
	l.m.Filter.Limit = frontend.MaxLost
	s := setter[frontend.ListLost]{table: frontend.ListLostOptions, into: &l.m}
	s.scope(&l.scope)
	given(&s, api.ArgLimit, l.Limit)
	return s.done(l.m.Op())
}

func (l *listLost) run(c *call) {
	l.m.Run(&c.Call, func(list []api.Lost, err error) {
		if err != nil {
			c.Fail(err)
			return
		}
		writeList(c, list, func(l *api.Lost) any { return listLostOut{lostOf(l)} },
			missing(l.m.Op(), noSuchLock, "no lost lock matches"))
	})
}
