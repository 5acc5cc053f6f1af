package peers

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/dlmlock/dlmlockd/lockd/api"
)

// maxPage is how many locks the table is asked for at once. A row takes at least 100 bytes
// (lockBody), so more would not fit into maxAnswer.
const maxPage = 512

// answerAll answers the questions of other nodes, one after the other, and no faster than
// answersPerSec. The pause after each is in proportion to its length, because an answer takes
// bandwidth of the whole cluster: every member gets every message.
func (p *Peers) answerAll(ctx context.Context) {
	for {
		var a asked
		select {
		case <-ctx.Done():
			return
		case a = <-p.asked:
		}
		body, err := json.Marshal(p.answerTo(ctx, &a))
		// This does not happen: a page ends at maxAnswer, and the longest single lock fits into a
		// message. If it does, the other side gets a reason instead of no answer.
		if err != nil || len(body) > MaxMessage-headerSize {
			body, _ = json.Marshal(refuse(api.Internal, "the answer does not fit into a message"))
		}
		p.send(&message{version: version, kind: answer, to: a.from, id: a.id, body: body})
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(len(body)) * time.Second / answersPerSec):
		}
	}
}

func refuse(k api.Kind, text string) *reply { return &reply{Error: &errorBody{string(k), text}} }

// answerTo asks the service. The caller was authorised on the node where it called: nobody is
// asked here, because corosync lets only root join the group, on every member node.
func (p *Peers) answerTo(ctx context.Context, a *asked) *reply {
	if a.version != version {
		return refuse(api.NotSupported, "its service is older and does not understand the question")
	}
	var q question
	if err := json.Unmarshal(a.body, &q); err != nil {
		return refuse(api.InvalidArgs, "its service can't read the question")
	}
	// The channel has room for the one answer: the callback runs in a turn of the table, which
	// must not wait for this goroutine, even if the goroutine has given up.
	done := make(chan *reply, 1)
	switch {
	case q.List != nil:
		f, ok := q.List.filter()
		if f.Limit == 0 || f.Limit > maxPage {
			f.Limit = maxPage
		}
		if !ok {
			return refuse(api.NotSupported, "its service does not understand the filter")
		}
		p.cfg.Service.List(f, func(page api.Page, err error) { done <- pageOf(page, err) })
	case q.Inspect != nil:
		p.cfg.Service.Inspect(string(q.Inspect.Lockspace), string(q.Inspect.Resource),
			func(in api.Inspection, err error) {
				if err != nil {
					done <- refusal(err)
					return
				}
				done <- &reply{Inspect: inspectionOf(&in)}
			})
	default:
		return refuse(api.NotSupported, "its service does not understand the question")
	}
	select {
	case r := <-done:
		return r
	case <-ctx.Done():
		return refuse(api.ShuttingDown, "its service is stopping")
	case <-time.After(patience):
		return refuse(api.ClusterUnavailable, "its service does not answer")
	}
}

// refusal passes on the text of an error without its hint and its list of operations, because
// the front end on the other node has its own words for these.
func refusal(err error) *reply {
	var e *api.Error
	if errors.As(err, &e) {
		return refuse(e.Kind, e.Text)
	}
	return refuse(api.Internal, err.Error())
}

func pageOf(page api.Page, err error) *reply {
	if err != nil {
		return refusal(err)
	}
	r := &reply{Next: uint64(page.Next)}
	r.Locks = fit(page.Locks, maxAnswer)
	// The locks that did not fit begin the next page: After is the last one that the other side
	// has. Otherwise they would be skipped.
	if n := len(r.Locks); n < len(page.Locks) && n > 0 {
		r.Next = uint64(page.Locks[n-1].Ref)
	}
	return r
}
