package lockd

import "github.com/dlmlock/dlmlockd/state"

// step names an action for the crash tests: every point at which the process
// could die with something done and something not.
func (s *Service) step(a action) {
	var name string
	switch a := a.(type) {
	case lockAction:
		name = "lock"
	case convertAction:
		name = "convert"
	case unlockAction:
		name = "unlock"
	case appendAction:
		name = "append"
		if len(a.changes) > 0 {
			switch c := a.changes[0].(type) {
			case state.Lock:
				name = "append-granted"
				if c.Phase == state.Lost {
					name = "append-lost"
				}
			case state.Mark:
				name = "append-mark"
				switch c.Phase {
				case state.Held:
					name = "append-held"
				case state.Releasing:
					name = "append-releasing"
				case state.Gone:
					name = "append-gone"
				}
			case state.Lockspace:
				name = "append-lockspace"
			}
		}
	case replyAction:
		name = "reply"
	case runLostAction:
		name = "run-lost"
	case adoptAction:
		name = "adopt"
	case cancelAction:
		name = "cancel"
	case openAction:
		name = "open"
	case closeAction:
		name = "close"
	case createAction:
		name = "create"
	case removeAction:
		name = "remove"
	default:
		return
	}
	s.cfg.OnStep(name)
}
