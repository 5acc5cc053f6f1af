package lab_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/dlm/dlmtest"
	"github.com/dlmlock/dlmlockd/lab"
)

// TestTwoNodes does on each kernel, in one boot, what two nodes are enough for:
// the lab itself, the rules of dlmtest and stories about the engine, stories
// about the service, and its crash test. The parts come in an order in which
// few nodes have to be booted again.
func TestTwoNodes(t *testing.T) {
	lab.Require(t)
	t.Parallel()
	for _, kernel := range seriesToTest() {
		t.Run(kernel, func(t *testing.T) {
			t.Parallel()
			twoNodes(t, kernel)
		})
	}
}

// newest is the kernel of which most is asked.
const newest = "6.12"

func twoNodes(t *testing.T, kernel string) {
	r := bootServiceRig(t, lab.Config{Kernel: kernel, Nodes: 2})
	one := r.cluster.Node(1)
	t.Run("lab", func(t *testing.T) {
		t.Run("commands", func(t *testing.T) { commands(t, one) })
		t.Run("files", func(t *testing.T) { files(t, one) })
		t.Run("bus", func(t *testing.T) { systemBus(t, one) })
	})
	e := &rig{t: t, cluster: r.cluster}
	t.Run("without a cluster", func(t *testing.T) { withoutCluster(t, e) })
	r.join(t)
	t.Run("cluster", func(t *testing.T) {
		t.Run("join", func(t *testing.T) { join(t, r.cluster) })
		t.Run("slow network", func(t *testing.T) { slowNetwork(t, r.cluster) })
		t.Run("complaints", func(t *testing.T) { complaints(t, one) })
	})
	t.Run("engine", func(t *testing.T) {
		e.joinShared(t)
		for _, story := range engineStories {
			t.Run(story.name, func(t *testing.T) { story.tell(t, e) })
		}
		t.Run("rules", func(t *testing.T) { dlmtest.Run(t, e) }) // panics a node at its end
	})
	t.Run("stories", func(t *testing.T) { playStories(t, r, kernel, false) })
	t.Run("crash", func(t *testing.T) {
		if kernel == newest {
			crashTests(t, r, kills{points: 40, steps: 3, nth: 2})
		} else {
			crashTests(t, r, kills{points: 15, steps: 2, nth: 4})
		}
	})
	t.Run("last stories", func(t *testing.T) { playStories(t, r, kernel, true) })
	t.Run("power off", func(t *testing.T) {
		require.NoError(t, one.PowerOff(lab.Context(t, "power off", stepTime)))
		require.False(t, one.Up())
		_, err := one.Run(t.Context(), "true")
		require.ErrorIs(t, err, lab.ErrDown)
	})
}

// TestThreeNodes plays the stories for three nodes, of which those that are lost
// are powered off for the others before their locks are given away. The long ones
// are divided between the kernels.
func TestThreeNodes(t *testing.T) {
	lab.Require(t)
	t.Parallel()
	for _, kernel := range seriesToTest() {
		t.Run(kernel, func(t *testing.T) {
			t.Parallel()
			r := newServiceRig(t, lab.Config{Kernel: kernel, Nodes: 3, Fencing: true})
			t.Run("stories", func(t *testing.T) { playStories(t, r, kernel, false) })
			t.Run("history", func(t *testing.T) { neverTwoHolders(t, r) })
		})
	}
}

// Times are generous: an emulated node on a busy machine is slow, and a time
// that is too short tells nothing.
const (
	joinTime = 2 * time.Minute
	stepTime = time.Minute
)
