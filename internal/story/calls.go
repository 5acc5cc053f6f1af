package story

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dlmlock/dlmlockd/client"
)

// answer prints what came of a command. It runs when that is printed, so that
// names are given in the order in which the story shows things.
type answer func(out *Output)

// forever is the value of wait= for an acquire without a deadline.
const forever = "forever"

// parseWait reads the value of wait=; negative is for ever.
func parseWait(text string) (time.Duration, error) {
	switch text {
	case "":
		return 0, nil
	case forever:
		return -1, nil
	}
	return time.ParseDuration(text)
}

func (c *Command) wait() time.Duration {
	d, _ := parseWait(c.Options["wait"])
	return d
}

// value is what to write into the value block, or nil.
func (c *Command) value() []byte {
	if text, ok := c.Options["value"]; ok {
		return []byte(text)
	}
	return nil
}

// tokensOf is the node with whose tokens a token is compared; 0 stands for all of
// them, which must not be asked for where the clocks alone make the tokens grow.
func (c *Command) tokensOf() int {
	if c.Options["tokens"] == "all" {
		return 0
	}
	return c.Node
}

// wants are pairs of LOCKSPACE/RESOURCE and MODE.
func (c *Command) wants() []client.Want {
	var want []client.Want
	for i := 0; i+1 < len(c.Args); i += 2 {
		lockspace, resource := c.Resource(i)
		want = append(want, client.Want{Lockspace: lockspace, Resource: resource, Mode: c.Args[i+1]})
	}
	return want
}

// resources are arguments LOCKSPACE/RESOURCE from some place on.
func (c *Command) resources(from int) []client.Want {
	var want []client.Want
	for i := from; i < len(c.Args); i++ {
		lockspace, resource := c.Resource(i)
		want = append(want, client.Want{Lockspace: lockspace, Resource: resource, Mode: "EX"})
	}
	return want
}

// call makes a call of the service.
func (p *player) call(ctx context.Context, c *Command, s Service) (answer, error) {
	switch c.Verb {
	case "acquire":
		return p.acquire(ctx, c, s)
	case "acquire-all":
		return acquireAll(ctx, c, s)
	case "convert":
		return p.convert(ctx, c, s)
	case "release":
		lockspace, resource := c.Resource(0)
		sel, err := p.selector(c)
		if err != nil {
			return nil, err
		}
		return said("released"), s.Release(ctx, lockspace, resource, sel)
	case "release-owner":
		n, err := s.ReleaseOwner(ctx, c.Options["in"], c.Arg(0))
		return said("released %d", n), err
	case "release-many":
		n, err := s.ReleaseLabel(ctx, c.resources(1), c.Arg(0), c.Options["label"])
		return said("released %d", n), err
	case "join":
		return said("joined"), s.Join(ctx, c.Arg(0))
	case "leave":
		return said("left"), s.Leave(ctx, c.Arg(0), c.Options["force"] != "")
	case "adopt":
		return adopt(ctx, c, s)
	case "purge":
		shown := p.orphans
		n, err := s.Purge(ctx, c.Arg(0), shown)
		return func(out *Output) {
			out.Say("purged %d", n)
			out.names.purged(c.Node, shown)
		}, err
	}
	return p.look(ctx, c, s)
}

func said(format string, a ...any) answer { return func(out *Output) { out.Say(format, a...) } }

// look makes a call that only looks.
func (p *player) look(ctx context.Context, c *Command, s Service) (answer, error) {
	switch c.Verb {
	case "list":
		locks, err := s.Locks(ctx, client.Filter{})
		return func(out *Output) { out.Locks(locks) }, err
	case "lockspaces":
		spaces, err := s.Lockspaces(ctx)
		return func(out *Output) { out.lockspaces(spaces) }, err
	case "inspect":
		lockspace, resource := c.Resource(0)
		in, err := s.Inspect(ctx, lockspace, resource)
		return func(out *Output) { out.inspection(c.Arg(0), &in) }, err
	case "orphans":
		found, err := s.Orphans(ctx, c.Arg(0))
		slices.SortFunc(found, func(a, b client.Orphan) int {
			return cmp.Or(strings.Compare(a.Resource, b.Resource), strings.Compare(a.Mode, b.Mode))
		})
		p.orphans = nil
		for _, orphan := range found {
			p.orphans = append(p.orphans, orphan.LockID)
		}
		return func(out *Output) { out.orphans(found) }, err
	case "status":
		all, err := s.Status(ctx)
		return func(out *Output) {
			for _, name := range c.Args {
				out.Say("%s %v", name, all[name])
			}
		}, err
	}
	return nil, errNoCall
}

// errNoCall says that a verb is no call of the service.
var errNoCall = errors.New("no call of the service")

func (p *player) acquire(ctx context.Context, c *Command, s Service) (answer, error) {
	owner, has := c.Options["owner"]
	o := Options{Owner: owner, HasOwner: has, Label: c.Options["label"], Lifetime: c.Options["lifetime"],
		Value: c.value(), Wait: c.wait()}
	if name := c.Options["process"]; name != "" {
		pid, start, ok := p.backend.Process(c.Node, name)
		if !ok {
			return nil, fmt.Errorf("no process is called %s", name)
		}
		o.PID, o.Start = pid, start
	}
	if text := c.Options["start"]; text != "" {
		o.Start, _ = strconv.ParseUint(text, 10, 64)
	}
	want := c.wants()
	if len(want) != 1 {
		grants, err := s.AcquireMany(ctx, want, o)
		return p.granted(c, grants), err
	}
	g, err := s.Acquire(ctx, want[0], o)
	return p.granted(c, []client.Grant{g}), err
}

func (p *player) granted(c *Command, grants []client.Grant) answer {
	return func(out *Output) {
		texts := make([]string, len(grants))
		for i, g := range grants {
			texts[i] = fmt.Sprintf("lkid=%s, %s", out.names.lock(c.Node, g.Lock, g.LockID),
				out.names.token(c.tokensOf(), g.Lockspace+"/"+g.Resource, g.Token))
		}
		out.Say("granted %s", strings.Join(texts, "; "))
	}
}

func (p *player) convert(ctx context.Context, c *Command, s Service) (answer, error) {
	sel, err := p.selector(c)
	if err != nil {
		return nil, err
	}
	token, err := s.ConvertValue(ctx, c.wants()[0], sel, c.wait(), c.value())
	return func(out *Output) {
		out.Say("converted, %s", out.names.token(c.tokensOf(), c.Arg(0), token))
	}, err
}

func (p *player) selector(c *Command) (client.Selector, error) {
	sel := client.Selector{Owner: c.Options["owner"]}
	letter := c.Options["lock"]
	if letter == "" {
		return sel, nil
	}
	id, ok := p.names.ids[letter]
	if !ok {
		return sel, fmt.Errorf("no lock has been printed as %q", letter)
	}
	sel.LockID = id
	return sel, nil
}

// acquireAll takes several locks at once and releases them, again and again.
func acquireAll(ctx context.Context, c *Command, s Service) (answer, error) {
	want := c.resources(1)
	most, err := strconv.Atoi(c.Arg(0))
	rounds := 0
	for ; rounds < most && err == nil; rounds++ {
		if _, err = s.AcquireMany(ctx, want, Options{Owner: "all", HasOwner: true, Wait: client.MaxWait}); err == nil {
			_, err = s.ReleaseOwner(ctx, "", "all")
		}
	}
	return said("granted %d times", rounds), err
}

// adopt takes over the orphans of a resource, and tells whether the tokens are
// those that they had.
func adopt(ctx context.Context, c *Command, s Service) (answer, error) {
	found, err := s.Orphans(ctx, c.Arg(0))
	if err != nil {
		return nil, err
	}
	var adopted []func(*Output)
	for _, orphan := range found {
		if orphan.Resource != c.Arg(1) {
			continue
		}
		token, err := s.Adopt(ctx, c.Arg(0), orphan, client.Adoption{Owner: c.Options["owner"], Label: c.Options["label"]})
		if err != nil {
			return nil, err
		}
		adopted = append(adopted, func(out *Output) {
			same := token != 0 && token == orphan.Token
			out.Say("adopted lkid=%s, the token that it had: %v", out.Orphan(orphan.LockID), same)
		})
	}
	return func(out *Output) {
		for _, say := range adopted {
			say(out)
		}
	}, nil
}

// refusal is how an error of the service is printed; ok is false for one that no
// story expects.
func refusal(err error) (print answer, ok bool) {
	var e *client.Error
	if !errors.As(err, &e) || e.Kind == client.Failed {
		return nil, false
	}
	return func(out *Output) {
		out.Say("%s: %s", e.Kind, e.Message)
		if c, ok := errors.AsType[*Candidates](err); ok {
			for i := range c.Locks {
				out.Line("  candidate %s", out.describe(&c.Locks[i]))
			}
		}
	}, true
}
