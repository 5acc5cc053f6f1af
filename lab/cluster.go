package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dlmlock/dlmlockd/lab/console"
	"github.com/dlmlock/dlmlockd/lab/guest"
	"github.com/dlmlock/dlmlockd/lab/image"
	"github.com/dlmlock/dlmlockd/lab/lan"
)

// Config describes a cluster.
type Config struct {
	// Kernel is the kernel series of the nodes, "6.1" or "6.12" (the default).
	Kernel string
	// Nodes is how many there are, from 1; the default is 2.
	Nodes int
	// Root is the directory that the nodes have as their root, read-only under an
	// overlay. The default is LAB_ROOT, or else the root of this machine.
	Root string
	// Systemd makes systemd the nodes' process 1.
	Systemd bool
	// Fencing lets dlm_controld power off nodes that the cluster has lost,
	// before it recovers their locks.
	Fencing bool
	// Token is corosync's token timeout: how long a lost node goes
	// unnoticed. The default, 5 s, is stable on a busy machine; 1 s is not.
	Token time.Duration
	// MemoryMB is a node's memory in MiB; the default is 768.
	MemoryMB int
	// KernelArgs are added to the nodes' kernel command line.
	KernelArgs string
	// SharedMemory is a file that all nodes have as memory of a PCI device (package
	// logbook); "" means none.
	SharedMemory string
	// Artefacts is the directory for consoles and logs; the default is
	// LAB_ARTEFACTS or lab/artefacts.
	Artefacts string
	// Concurrent allows another lab to run on this machine at the same time.
	Concurrent bool
	// Found gets each complaint of a node's kernel as it is seen.
	Found func(n *Node, f console.Finding)
	// BeforeFence is called before a node is powered off for another one, which
	// waits for it: a test that wants to see that wait can make it last.
	BeforeFence func(by *Node, victim int)
	// Log gets one line per decision; nil is silent.
	Log *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Kernel == "" {
		c.Kernel = "6.12"
	}
	if c.Nodes == 0 {
		c.Nodes = 2
	}
	if c.Root == "" {
		c.Root = os.Getenv("LAB_ROOT")
	}
	if c.Token == 0 {
		c.Token = 5 * time.Second
	}
	if c.MemoryMB == 0 {
		c.MemoryMB = 768
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Cluster is a set of running nodes.
type Cluster struct {
	// Net is the Ethernet between the nodes; ports are node numbers.
	Net *lan.Switch

	config    Config
	image     image.Image
	unlock    func() // lets other processes have a lab; nil where there was no lock
	artefacts string
	sockets   string // directory of the unix sockets
	started   time.Time
	nodes     []*Node
	closeOnce sync.Once

	mu     sync.Mutex
	fenced []Fenced
}

// bootTimeout bounds the start of the nodes; on an idle machine it takes ten
// seconds. Waiting for another lab and downloading a kernel don't count.
const bootTimeout = 5 * time.Minute

// Boot starts a cluster and returns when every node runs commands. Nothing of
// the cluster software runs yet: see [Cluster.JoinDLM]. Close ends it all.
func Boot(ctx context.Context, config Config) (*Cluster, error) {
	config = config.withDefaults()
	if config.Nodes < 1 || config.Nodes > guest.MaxID {
		return nil, fmt.Errorf("lab: %d nodes, from 1 to %d are possible", config.Nodes, guest.MaxID)
	}
	if err := checkRoot(config.Root); err != nil {
		return nil, err
	}
	if err := CheckPackages(); err != nil {
		return nil, err
	}
	c := &Cluster{Net: &lan.Switch{}, config: config}
	if err := c.prepare(ctx); err != nil {
		c.Close()
		return nil, err
	}
	c.started = time.Now()
	for id := 1; id <= config.Nodes; id++ {
		n, err := newNode(c, id)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.nodes = append(c.nodes, n)
	}
	bootCtx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("not up after %v", bootTimeout))
	defer cancel()
	if err := c.each(func(n *Node) error { return n.Boot(bootCtx) }); err != nil {
		c.Close()
		return nil, err
	}
	config.Log.Info("lab: nodes are up", "nodes", config.Nodes, "kernel", c.image.Release, "after", time.Since(c.started))
	return c, nil
}

// prepare gets everything that starting a node needs.
func (c *Cluster) prepare(ctx context.Context) error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	if !c.config.Concurrent {
		c.unlock, err = machine.take(ctx, cache, func(holder string) {
			c.config.Log.Info("lab: waiting for another lab to end", "holder", holder)
		})
		if err != nil {
			return err
		}
	}
	root, err := Repository()
	if err != nil {
		return err
	}
	if c.image, err = image.Prepare(ctx, root, cache, c.config.Kernel); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if c.artefacts = c.config.Artefacts; c.artefacts == "" {
		if c.artefacts, err = artefactDir(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(c.artefacts, 0o755); err != nil {
		return err
	}
	// Not below the artefacts: a unix socket's path is at most 107 bytes.
	c.sockets, err = os.MkdirTemp("", "lab-")
	return err
}

// Prepare makes the images of the given kernel series without booting them.
func Prepare(ctx context.Context, series ...string) error {
	if err := CheckPackages(); err != nil {
		return err
	}
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	root, err := Repository()
	if err != nil {
		return err
	}
	unlock, err := machine.take(ctx, cache, func(string) {})
	if err != nil {
		return err
	}
	defer unlock()
	for _, s := range series {
		if _, err := image.Prepare(ctx, root, cache, s); err != nil {
			return fmt.Errorf("lab: kernel %s: %w", s, err)
		}
	}
	return nil
}

// Nodes returns all nodes, in the order of their numbers.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Node returns the node with the number, from 1. It panics without one.
func (c *Cluster) Node(id int) *Node { return c.nodes[id-1] }

// Release is the nodes' kernel release, as uname -r tells it.
func (c *Cluster) Release() string { return c.image.Release }

// Artefacts is the directory with the consoles and logs.
func (c *Cluster) Artefacts() string { return c.artefacts }

// Close switches every node off and lets the next lab start.
func (c *Cluster) Close() {
	c.closeOnce.Do(func() {
		_ = c.each(func(n *Node) error { return n.Crash() })
		for _, n := range c.nodes {
			n.close()
		}
		if c.sockets != "" {
			os.RemoveAll(c.sockets)
		}
		if c.unlock != nil {
			c.unlock()
		}
	})
}

// each does something with all nodes at once and joins the errors.
func (c *Cluster) each(do func(*Node) error) error {
	return onEach(c.nodes, do)
}

func onEach(nodes []*Node, do func(*Node) error) error {
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() {
			if err := do(n); err != nil {
				errs[i] = fmt.Errorf("%s: %w", n.Name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// listen opens a unix socket in the cluster's directory.
func (c *Cluster) listen(name string) (*net.UnixListener, string, error) {
	path := filepath.Join(c.sockets, name)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	return l, path, err
}

// Partition splits the Ethernet into groups of node numbers; nodes in no group
// keep their links.
func (c *Cluster) Partition(groups ...[]int) {
	c.config.Log.Info("lab: partition", "groups", groups)
	c.Net.Partition(groups...)
}

// Heal makes all links good again.
func (c *Cluster) Heal() {
	c.config.Log.Info("lab: heal")
	c.Net.Heal()
}

// Findings returns the unexpected kernel complaints of all nodes, formatted
// for a failing test; "" when there are none.
func (c *Cluster) Findings() string {
	var all string
	for _, n := range c.nodes {
		all += console.Report(n.Name, n.Console.Findings())
	}
	return all
}
