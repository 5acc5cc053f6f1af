package lab_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm"
)

// An episode is what one client did with a resource, from the acquire to the end of the
// lock. A correct history stays correct if an episode is left out.
type episode []porcupine.Operation

// episodes returns the episodes of a resource.
func episodes(ops []porcupine.Operation, resource string) (all []episode) {
	byOwner := map[string][]porcupine.Operation{}
	for _, op := range ops {
		if d := op.Input.(deed); d.resource == resource {
			byOwner[d.owner] = append(byOwner[d.owner], op)
		}
	}
	for _, own := range byOwner {
		slices.SortStableFunc(own, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
		begin := 0
		for i, op := range own {
			if last := i == len(own)-1; last || op.Input.(deed).mode == dlm.None && op.Output == granted {
				all = append(all, own[begin:i+1])
				begin = i + 1
			}
		}
	}
	slices.SortFunc(all, func(a, b episode) int {
		return cmp.Or(cmp.Compare(a[0].Call, b[0].Call), strings.Compare(a[0].Input.(deed).owner, b[0].Input.(deed).owner))
	})
	return all
}

// shrinkTime bounds the search in a part of a history that had two holders.
const shrinkTime = 10 * time.Second

// shrink leaves out episodes for as long as two holders at one time remain.
func shrink(all []episode) []episode {
	model := lockModel.ToModel()
	bad := func(part []episode) bool {
		return porcupine.CheckOperationsTimeout(model, slices.Concat(part...), shrinkTime) == porcupine.Illegal
	}
	if !bad(all) {
		return nil
	}
	for size := len(all) / 2; size > 0; size /= 2 {
		for from := 0; from+size <= len(all); {
			rest := slices.Concat(all[:from:from], all[from+size:])
			if bad(rest) {
				all = rest
			} else {
				from += size
			}
		}
	}
	return all
}

// sawFault is a fault that was injected.
type sawFault struct {
	at   int64
	name string
	node int
}

// soakStory writes episodes as a story, with the faults at their place. A person has to
// complete it: it has no answers, and not what else was going on.
func soakStory(all []episode, faults []sawFault, seed uint64) string {
	type line struct {
		at   int64
		text string
	}
	var lines []line
	for _, e := range all {
		held := false
		for _, op := range e {
			d := op.Input.(deed)
			node, client, _ := strings.Cut(d.owner, ".")
			verb := "acquire"
			switch {
			case d.mode == dlm.None:
				verb = "release"
			case held:
				verb = "convert"
			}
			held = held || op.Output == granted
			text := fmt.Sprintf("%s %s %s/%s %v owner=c%s", node, verb, soakSpace, d.resource, d.mode, client)
			lines = append(lines, line{op.Call, strings.ReplaceAll(text, " -- ", " ")})
		}
	}
	for _, f := range faults {
		text := fmt.Sprintf("# %s, n%d", f.name, f.node)
		if f.name == "daemon killed" {
			text = fmt.Sprintf("n%d kill-daemon\nn%[1]d start-daemon", f.node)
		}
		lines = append(lines, line{f.at, text})
	}
	slices.SortStableFunc(lines, func(a, b line) int { return cmp.Compare(a.at, b.at) })
	var b strings.Builder
	fmt.Fprintf(&b, "# Guards against two holders at one time, which a soak found with the seed %d.\n# Nodes: 3, fenced\n"+
		"n1 start-daemon\nn2 start-daemon\nn3 start-daemon\ncalm\n----\n\n", seed)
	for _, l := range lines {
		b.WriteString(l.text + "\n")
	}
	return b.String() + "----\n"
}

// shortest finds the resource with two holders, and makes a story of it; "" if there is no
// such resource.
func (a *account) shortest(faults []sawFault, seed uint64) string {
	seen := map[string]bool{}
	for _, op := range a.ops {
		name := op.Input.(deed).resource
		if seen[name] {
			continue
		}
		seen[name] = true
		if all := shrink(episodes(a.ops, name)); all != nil {
			return soakStory(all, faults, seed)
		}
	}
	return ""
}

// Of a failing history only the two holders are left.
func TestSoakShrinks(t *testing.T) {
	a := newAccount()
	var now int64
	do := func(owner string, mode dlm.Mode) {
		now += 2
		a.ops = append(a.ops, porcupine.Operation{Input: deed{"r1", owner, mode}, Output: granted,
			Call: now, Return: now + 1})
	}
	for i := range 40 {
		owner := fmt.Sprintf("n%d.%d", i%3+1, i%5)
		do(owner, dlm.EX)
		do(owner, dlm.PR)
		if i == 20 {
			do("n3.7", dlm.EX)
			do("n3.7", dlm.None)
		}
		do(owner, dlm.None)
	}
	require.Equal(t, `# Guards against two holders at one time, which a soak found with the seed 9.
# Nodes: 3, fenced
n1 start-daemon
n2 start-daemon
n3 start-daemon
calm
----

# clock set, n2
n3 acquire vms/r1 EX owner=c0
n3 convert vms/r1 PR owner=c0
n3 acquire vms/r1 EX owner=c7
n3 release vms/r1 owner=c7
n3 release vms/r1 owner=c0
----
`, a.shortest([]sawFault{{1, "clock set", 2}}, 9))
	a.ops = a.ops[:9]
	require.Empty(t, a.shortest(nil, 9))
}
