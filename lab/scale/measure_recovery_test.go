package scale_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dlmlock/dlmlockd/lab/scale"
)

// recoveries measures lockspaces of two, three and five nodes.
func (r *rig) recoveries() { r.recoveriesOf("recovery", 2, 3, 5) }

// wide measures lockspaces of eight and more nodes, which the other parts don't need: the machine
// has to be quiet.
func (r *rig) wide() {
	var sizes []int
	for n := 8; n <= len(r.cluster.Nodes()); n += 4 {
		sizes = append(sizes, n)
	}
	if len(sizes) > 0 {
		r.recoveriesOf("wide", sizes...)
	}
}

// recoveriesOf has the last node of lockspaces leave, with locks on every node, and writes down what
// the kernels say that they sent beside what the model computes.
func (r *rig) recoveriesOf(name string, sizes ...int) {
	t := newTable(name, "nodes", "resources", "locks on each", "milliseconds", "until locks are rebuilt",
		"names sent", "names of the model", "masters looked for", "masters of the model", "locks sent",
		"locks of the model")
	for _, nodes := range sizes {
		r.oneRecovery(t, nodes, 0, 1)
		for _, resources := range []int{1000, 10_000} {
			r.oneRecovery(t, nodes, resources, 1)
		}
		for _, resources := range []int{1000, 5000, 10_000} {
			r.oneRecovery(t, nodes, resources, min(3, nodes))
		}
	}
	t.save(r)
}

func (r *rig) oneRecovery(t *table, nodes, resources, sharers int) {
	ids := make([]int, nodes)
	for i := range ids {
		ids[i] = i + 1
	}
	space := r.join(ids...)
	placed, loads := r.place(space, ids, resources, sharers)
	done := r.abandon(space, nodes, loads)
	var slowest, rebuilt time.Duration
	var sum recovered
	for _, id := range ids[:nodes-1] {
		k, err := r.recovery(r.step("recovery"), id, space, nodes-1)
		r.must(err)
		slowest, rebuilt = max(slowest, k.ended-k.began), max(rebuilt, k.rebuilt-k.began)
		sum.in, sum.masters, sum.out = sum.in+k.in, sum.masters+k.masters, sum.out+k.out
	}
	model := scale.Leave(scale.Members(nodes), uint32(nodes), placed)
	t.add(nodes, resources, sharers, millis(slowest), millis(rebuilt), sum.in, model.DirectoryEntries,
		sum.masters, model.Remastered, sum.out, model.LocksSent)
	done()
	for _, l := range loads {
		l.end()
	}
	r.leave(space, ids[:nodes-1]...)
}

// abandon has a node leave a lockspace while its processes, which are stopped, have locks: otherwise
// they would release them first. The function done lets them go on, and waits until the node has left.
func (r *rig) abandon(space string, node int, loads []*load) (done func()) {
	signal := func(s syscall.Signal) {
		for _, l := range loads {
			if l.node == node {
				r.must(l.process.Signal(s))
			}
		}
	}
	// When they go on, the kernel warns that it has no member any more to send their unlocks to.
	r.cluster.Node(node).Expect(regexp.MustCompile(`WARNING: .* dlm_midcomms_get_mhandle\+`))
	signal(syscall.SIGSTOP)
	left := make(chan error, 1)
	go func() { left <- r.cluster.Node(node).LeaveLockspace(r.step("leave"), space) }()
	return func() {
		signal(syscall.SIGCONT)
		r.must(<-left)
	}
}

// place gives each node its share of the resources, and the next nodes locks on them, too.
func (r *rig) place(space string, ids []int, resources, sharers int) (placed []scale.Resource, loads []*load) {
	mode := "EX"
	if sharers > 1 {
		mode = "PR"
	}
	shares := make([][]string, len(ids))
	for i, name := range r.names(resources) {
		k := i % len(ids)
		shares[k] = append(shares[k], name)
		res := scale.Resource{Name: name, Master: uint32(ids[k])}
		for s := range sharers {
			res.Holders = append(res.Holders, uint32(ids[(k+s)%len(ids)]))
		}
		placed = append(placed, res)
	}
	for s := range sharers { // the masters first
		for k := range shares {
			loads = append(loads, r.hold(ids[(k+s)%len(ids)], space, mode, shares[k]))
		}
	}
	return placed, loads
}

// convoys measures how long it takes until a lock that many wait for is passed on.
func (r *rig) convoys() {
	const seconds = 3
	t := newTable("convoy", "nodes", "waiters", "granted", "microseconds for each")
	for _, nodes := range [][]int{{1}, {1, 2, 3}} {
		space := r.join(1, 2, 3)
		for _, waiters := range []int{3, 30, 300, 3000, 9000} {
			if len(nodes) > 1 && waiters > 300 {
				break // the waiters of a node queue in one block, and the time is over before the next node's turn
			}
			name := fmt.Sprintf("convoy%d", waiters)
			gate := r.hold(1, space, "EX", []string{name})
			var loads []*load
			for _, n := range nodes {
				l := r.start(n, nil, "convoy", space, name, strconv.Itoa(waiters/len(nodes)), strconv.Itoa(seconds))
				l.line()
				loads = append(loads, l)
			}
			for _, l := range loads {
				r.must(l.process.CloseInput())
			}
			gate.end()
			granted := 0
			for _, l := range loads {
				n, err := strconv.Atoi(l.line())
				r.must(err)
				granted += n
			}
			for _, l := range loads {
				l.end()
			}
			t.add(len(nodes), waiters, granted, seconds*1e6/float64(granted))
		}
		r.leave(space, 1, 2, 3)
	}
	t.save(r)
}

// lockspaces has nodes fail that share one large lockspace, or many small ones, with the others.
func (r *rig) lockspaces() {
	const resources = 10_000
	t := newTable("lockspaces", "lockspaces", "resources in all", "seconds to join", "seconds until noticed",
		"seconds of recovery")
	failing := len(r.cluster.Nodes())
	spared := r.join(1, 2) // it has no member that fails
	for _, count := range []int{1, 20} {
		ids := []int{1, 2, failing}
		began := time.Now()
		var spaces []string
		for range count {
			spaces = append(spaces, r.join(ids...))
		}
		joined := time.Since(began)
		for _, space := range spaces {
			r.place(space, ids, resources/count, 1)
		}
		crashed := r.uptime(1)
		r.must(r.cluster.Node(failing).Crash())
		first, last := time.Duration(1<<62), time.Duration(0)
		ctx, cancel := context.WithTimeout(r.Context(), stepTime)
		for _, space := range spaces {
			k, err := r.recovery(ctx, 1, space, len(ids)-1)
			r.must(err)
			first, last = min(first, k.began), max(last, k.ended)
		}
		cancel()
		if k, err := r.recovery(r.step("spared"), 1, spared, 2); err != nil || k.began > crashed {
			r.Fatalf("a lockspace without the failed node has recovered: %v, %v", k, err)
		}
		t.add(count, resources, joined.Seconds(), (first - crashed).Seconds(), (last - first).Seconds())
		failing--
	}
	t.save(r)
}

// uptime is the time of a node's kernel, as its messages have it.
func (r *rig) uptime(node int) time.Duration {
	seconds, err := strconv.ParseFloat(strings.Fields(r.shell(node, "cat /proc/uptime"))[0], 64)
	r.must(err)
	return time.Duration(seconds * float64(time.Second))
}
