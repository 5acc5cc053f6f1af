package lockd

import (
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/lockd/table"
	"github.com/dlmlock/dlmlockd/process"
)

// answers are the calls that have no answer yet, by their number. Only the owner
// touches them.
type answers struct {
	last    table.CallID
	waiting map[table.CallID]*waitingCall
}

// waitingCall is the front end's side of a call.
type waitingCall struct {
	op      string
	process process.ID // held for it; see findProcess
	done    func(table.Reply, error)
	started func(api.Ref, error) // Request: gets its number or why it can't wait; nil when it has
}

func (a *answers) init() { a.waiting = map[table.CallID]*waitingCall{} }

// add makes the entry of a call and numbers it.
func (a *answers) add(w *waitingCall) table.CallID {
	a.last++
	a.waiting[a.last] = w
	return a.last
}

// submit gives a call to the table, or answers it at once when the service has stopped.
func (s *Service) submit(o table.Operation, w *waitingCall) { w.enter(s, s.post, o) }

// carry is submit by the goroutine of the call, which carries it as far as nothing is in
// its way. What the call is answered with may have been given to it before carry returns.
func (s *Service) carry(o table.Operation, w *waitingCall) { w.enter(s, s.bring, o) }

// enter has the call entered by post or bring.
func (w *waitingCall) enter(s *Service, way func(func()) bool, o table.Operation) {
	w.op = o.Name()
	if !way(func() { s.t.Submit(s.answers.add(w), o) }) {
		s.end(w, nil, stopped(w.op))
	}
}

// stopped is the answer to a call that the service takes no more.
func stopped(op string) error {
	return &api.Error{Op: op, Kind: api.ShuttingDown, Text: "the service has stopped; ask again when it is back"}
}

// tell has fn answer a call that the table knows nothing of, by the owner like
// all answers, or at once when the service has stopped.
func (s *Service) tell(fn func()) {
	if !s.post(fn) {
		fn()
	}
}

// answer gives the result of a call to the front end.
func (s *Service) answer(a table.ReplyAction) {
	w := s.answers.waiting[a.Call]
	delete(s.answers.waiting, a.Call)
	s.end(w, a.Reply, a.Err)
}

// end answers a call. A Request that was refused before it waited was never
// started.
func (s *Service) end(w *waitingCall, r table.Reply, err error) {
	if w.process != (process.ID{}) {
		s.cfg.Processes.Drop(w.process)
	}
	if w.started != nil {
		w.started(0, err)
		return
	}
	w.done(r, err)
}

// started gives a Request its number.
func (s *Service) started(a table.StartedAction) {
	if w := s.answers.waiting[a.Call]; w.started != nil {
		started := w.started
		w.started = nil
		started(a.Ref, nil)
	}
}

// refuseAll answers what has no answer yet, because the service has stopped.
func (s *Service) refuseAll() {
	for id, w := range s.answers.waiting {
		delete(s.answers.waiting, id)
		s.end(w, nil, stopped(w.op))
	}
}

// grantTo, countTo and errorTo make the function of a waitingCall out of the front
// end's.
func grantTo(done func(api.Grant, error)) func(table.Reply, error) {
	return func(r table.Reply, err error) {
		var g api.Grant
		if granted, ok := r.(table.GrantedReply); ok && err == nil && len(granted.Grants) == 1 {
			g = granted.Grants[0]
		}
		done(g, err)
	}
}

func countTo(done func(uint32, error)) func(table.Reply, error) {
	return func(r table.Reply, err error) {
		released, _ := r.(table.ReleasedReply)
		done(released.Count, err)
	}
}

func errorTo(done func(error)) func(table.Reply, error) {
	return func(_ table.Reply, err error) { done(err) }
}
