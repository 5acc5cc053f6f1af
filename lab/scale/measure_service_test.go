package scale_test

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/lab/service"
)

// service measures the resident memory of dlmlockd on the kernel's DLM, after a start without locks and
// after one with many to take over.
func (r *rig) service() {
	const locks = 10_000
	ctx := r.step("build the service")
	program, err := service.Build(ctx, r.TempDir())
	r.must(err)
	s, err := service.Install(ctx, r.cluster.Node(1), program, "")
	r.must(err)
	r.must(s.Start(ctx, "--log-level=warn"))
	c, err := s.Dial(ctx)
	r.must(err)
	const space = "vms"
	r.must(c.Join(ctx, space))
	none := r.restart(s)
	c.Close()
	c, err = s.Dial(ctx)
	r.must(err)
	defer c.Close()
	for rest := r.names(locks); len(rest) > 0; rest = rest[500:] {
		var want []client.Want
		for _, name := range rest[:500] {
			want = append(want, client.Want{Lockspace: space, Resource: name, Mode: "EX"})
		}
		_, err := c.AcquireMany(r.step("locks"), want, client.Options{Owner: "a virtual machine"})
		r.must(err)
	}
	many := r.restart(s)
	t := newTable("service", "locks", "resident bytes")
	t.add(0, none)
	t.add(locks, many)
	t.save(r)
}

// restart kills the service, starts it again, and returns its resident memory.
func (r *rig) restart(s *service.Service) int {
	r.must(s.Kill(r.step("kill the service")))
	r.must(s.Start(r.step("start the service"), "--log-level=warn"))
	// The service returns unused memory within a second of its start.
	out := r.shell(1, fmt.Sprintf("sleep 5; grep VmRSS /proc/%d/status", s.PID()))
	kB, err := strconv.Atoi(strings.Fields(out)[1])
	r.must(err)
	return kB * 1024
}
