package story

import (
	"context"
	"errors"
	"fmt"
)

// job is a command that goes on beside the story.
type job struct {
	cancel context.CancelFunc
	done   chan struct{}
	out    *Output // what it has printed already, if it is no call
	print  answer
	err    error
}

// begin starts a job. Jobs of one connection that follow each other are handed
// over without a pause; everything else has come to rest before.
func (p *player) begin(c *Command) {
	if p.before == nil || p.before.Job == "" || p.before.Caller != c.Caller || p.before.Node != c.Node {
		p.backend.Settle()
	}
	info := &jobInfo{name: c.Job, asked: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.WithValue(p.t.Context(), jobKey{}, info))
	j := &job{cancel: cancel, done: make(chan struct{}), out: p.output(c, newNames())}
	p.jobs[c.Job] = j
	go func() {
		defer close(j.done)
		j.print, j.err = p.perform(ctx, c, j.out)
	}()
	if p.backend.Place() == Embedded {
		select {
		case <-info.asked:
		case <-j.done:
		}
	}
}

// waitFor waits for a job, or checks that it still runs.
func (p *player) waitFor(ctx context.Context, c *Command) (answer, error) {
	j := p.jobs[c.Arg(0)]
	if j == nil {
		return nil, fmt.Errorf("no job is called %s", c.Arg(0))
	}
	if c.Verb == "waits" {
		select {
		case <-j.done:
			return nil, errors.New("it has ended")
		default:
			return func(out *Output) { out.Line("%s waits", c.Arg(0)) }, nil
		}
	}
	select {
	case <-j.done:
	case <-ctx.Done():
		return nil, errors.New("it does not end")
	}
	begun := p.jobCommand(c.Arg(0), c.Line)
	return func(out *Output) {
		inner := p.output(begun, out.names)
		if err := p.print(j.print, j.err, inner); err != nil {
			p.t.Errorf("%s:%d: %v", p.story.Path, begun.Line, err)
		}
		_, _ = out.Write(j.out.buf.Bytes())
		_, _ = out.Write(inner.buf.Bytes())
	}, nil
}

// jobCommand is the last command before a line that began a job.
func (p *player) jobCommand(job string, line int) (begun *Command) {
	for i := range p.story.blocks {
		for k := range p.story.blocks[i].commands {
			if c := &p.story.blocks[i].commands[k]; c.Job == job && c.Line < line {
				begun = c
			}
		}
	}
	return begun
}

func (p *player) cancel(ctx context.Context, c *Command, s Service) (answer, error) {
	if canceler, ok := s.(Canceler); ok {
		return said("canceled"), canceler.CancelJob(ctx, c.Arg(0))
	}
	p.jobs[c.Arg(0)].cancel()
	return said("canceled"), nil
}
