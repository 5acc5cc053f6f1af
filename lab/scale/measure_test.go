package scale_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dlmlock/dlmlockd/lab"
	"github.com/dlmlock/dlmlockd/lab/scale"
)

// BenchmarkScale measures on nodes what docs/scale.md says, once, whatever b.N is. SCALE_NODES is
// how many nodes it boots, 5 by default; with fewer only some parts work, and more are for the part "wide".
func BenchmarkScale(b *testing.B) {
	lab.Require(b)
	nodes := 5
	if s := os.Getenv("SCALE_NODES"); s != "" {
		nodes, _ = strconv.Atoi(s)
	}
	r := boot(b, nodes)
	for _, part := range []struct {
		name string
		do   func(*rig)
	}{
		{"directory", (*rig).directory}, {"acquire", (*rig).acquire}, {"memory", (*rig).memory},
		{"recovery", (*rig).recoveries}, {"wide", (*rig).wide}, {"convoy", (*rig).convoys},
		{"service", (*rig).service}, {"lockspaces", (*rig).lockspaces},
	} {
		b.Run(part.name, func(b *testing.B) {
			r.B = b
			part.do(r)
		})
	}
}

// names returns names that nobody has used before, so that no node remembers their masters.
func (r *rig) names(n int) []string {
	r.spaces++
	return names(r.spaces, n)
}

func names(seed, n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = scale.Name(seed<<32 | i)
	}
	return all
}

// oddNames returns names of every length and with all bytes.
func oddNames() []string {
	var all []string
	for length := 1; length <= 64; length++ {
		for k := range 5 {
			name := make([]byte, length)
			for i := range name {
				name[i] = byte('a' + (i*7+k*3+length)%26)
				if k == 4 {
					name[i] = byte(i*37 + length*11)
				}
			}
			all = append(all, string(name))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// directory asks the kernels which node is the directory of each of many names, and holds the model
// to it. One lockspace has weights: dlm_controld reads them when it starts.
func (r *rig) directory() {
	t := newTable("directory", "weights", "name", "directory")
	all := oddNames()
	for _, weights := range [][]int{{1, 1}, {1, 1, 1}, {1, 1, 1, 1, 1}, {1, 3, 0}} {
		var nodes []int
		var members []scale.Member
		for i, w := range weights {
			nodes = append(nodes, i+1)
			members = append(members, scale.Member{ID: uint32(i + 1), Weight: w})
		}
		space := r.weighted(weights, nodes)
		held := r.hold(1, space, "EX", all)
		told := map[string]uint32{}
		for _, n := range nodes {
			for name := range directory(r.shell(n, "cat /sys/kernel/debug/dlm/"+space+"_toss")) {
				told[name] = uint32(n)
			}
		}
		model := scale.NewDirectory(members)
		for _, name := range all {
			key := fmt.Sprintf("%x", name)
			if told[key] == 0 {
				told[key] = 1 // the holder itself: then no other node knows it
			}
			if told[key] != model.Node(name) {
				r.Errorf("weights %v: the directory of %x is %d, not %d", weights, name, told[key], model.Node(name))
			}
			t.add(strings.Trim(fmt.Sprint(weights), "[]"), key, told[key])
		}
		held.end()
		r.leave(space, nodes...)
	}
	t.save(r)
}

// weighted joins a lockspace after dlm_controld has read the weights of its nodes.
func (r *rig) weighted(weights, nodes []int) string {
	if slices.Min(weights) == 1 && slices.Max(weights) == 1 {
		return r.join(nodes...)
	}
	conf := fmt.Sprintf("\\nlockspace space%d\\n", r.spaces+1)
	for i, w := range weights {
		if w > 0 {
			conf += fmt.Sprintf("master space%d node=%d weight=%d\\n", r.spaces+1, i+1, w)
		}
	}
	r.on(nodes, func(n int) error {
		if err := r.cluster.Node(n).StopControld(r.step("stop dlm_controld"), false); err != nil {
			return err
		}
		_, err := r.cluster.Node(n).Shell(r.step("weights"), "printf '"+conf+"' >> /etc/dlm/dlm.conf")
		return err
	})
	r.on(nodes, func(n int) error { return r.cluster.Node(n).StartControld(r.step("start dlm_controld")) })
	return r.join(nodes...)
}

// acquireClass is the directory and the master of the resource of a request by node 1; 0: no master yet.
type acquireClass struct{ directory, master uint32 }

// acquire times requests by the round trips that they should take.
func (r *rig) acquire() {
	const each = 200
	classes := []acquireClass{{1, 0}, {2, 0}, {1, 2}, {2, 2}, {3, 2}}
	model := scale.NewDirectory(scale.Members(3))
	space := r.join(1, 2, 3)
	byDirectory := map[uint32][]string{}
	for _, name := range r.names(10 * each) {
		d := model.Node(name)
		byDirectory[d] = append(byDirectory[d], name)
	}
	var held, asked []string
	var class []acquireClass
	for range each {
		for _, c := range classes {
			left := byDirectory[c.directory]
			name := left[0]
			byDirectory[c.directory] = left[1:]
			if c.master != 0 {
				held = append(held, name)
			}
			asked, class = append(asked, name), append(class, c)
		}
	}
	holder := r.hold(2, space, "PR", held)
	took := map[acquireClass][]time.Duration{}
	timed := r.start(1, asked, "time", space, "PR")
	for i := range asked {
		ns, err := strconv.Atoi(timed.line())
		r.must(err)
		took[class[i]] = append(took[class[i]], time.Duration(ns))
	}
	holder.end()
	t := newTable("acquire", "directory", "master", "round trips of the model", "p50 us", "p90 us", "requests")
	for _, c := range classes {
		slices.Sort(took[c])
		trips := scale.Request{Asker: 1, Directory: c.directory, Master: c.master}.RoundTrips()
		t.add(c.directory, c.master, trips, micros(took[c][each/2]), micros(took[c][each*9/10]), each)
	}
	t.save(r)
	r.leave(space, 1, 2, 3)
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
func millis(d time.Duration) float64 { return micros(d) / 1000 }

// memory counts the objects of the kernel for locks, on the master, on another holder, and on a node
// that has nothing but its part of the directory.
func (r *rig) memory() {
	const locks = 10_000
	space := r.join(1, 2, 3)
	all := r.names(locks)
	nodes := []int{1, 2, 3}
	t := newTable("memory", "step", "node", "cache", "object bytes", "objects", "bytes of slabs")
	before := r.slabs(nodes)
	step := func(what string) {
		after := r.slabs(nodes)
		for _, n := range nodes {
			for _, name := range changed(before[n-1], after[n-1]) {
				old, now := before[n-1][name], after[n-1][name]
				t.add(what, n, name, now.size, now.objects-old.objects, now.bytes-old.bytes)
			}
		}
		before = after
	}
	first := r.hold(1, space, "PR", all)
	step("node 1 has 10000 locks")
	second := r.hold(2, space, "PR", all)
	step("node 2 has them too")
	t.save(r)
	second.end()
	first.end()
	r.leave(space, nodes...)
}

// slab is a cache of /proc/slabinfo.
type slab struct{ objects, size, bytes int }

func (r *rig) slabs(nodes []int) []map[string]slab {
	all := make([]map[string]slab, len(nodes))
	for i, n := range nodes {
		all[i] = map[string]slab{}
		for line := range strings.Lines(r.shell(n, "cat /proc/slabinfo")) {
			f := strings.Fields(line)
			if len(f) < 16 || f[0] == "#" {
				continue
			}
			number := func(i int) int { n, _ := strconv.Atoi(f[i]); return n }
			all[i][f[0]] = slab{number(1), number(3), number(14) * number(5) * 4096}
		}
	}
	return all
}

// changed returns, in alphabetical order, the caches that got at least a tenth of an object for each
// lock.
func changed(before, after map[string]slab) []string {
	var all []string
	for name := range after {
		if after[name].objects-before[name].objects >= 1000 {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all
}
