package peers

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
	"github.com/dlmlock/dlmlockd/state"
)

// The JSON of version 1. A text of any bytes is a []byte, which JSON carries as base64. What is
// zero is left out. A field may be added, never changed: older services ignore what they do not
// know, and a filter that they do not know must not be sent to them.

type helloBody struct {
	Build string `json:"build"`
}

// question is the body of an ask. Exactly one field is set.
type question struct {
	List    *filterBody  `json:"list,omitempty"`
	Inspect *inspectBody `json:"inspect,omitempty"`
}

// op names the question in errors, as the service names that call about this node.
func (q *question) op() string {
	if q.Inspect != nil {
		return "inspect"
	}
	return "list"
}

type inspectBody struct {
	Lockspace []byte `json:"lockspace"`
	Resource  []byte `json:"resource"`
}

// filterBody is an api.Filter. Owner and UID are pointers because "" and 0 (root) are values to
// look for.
type filterBody struct {
	Lockspace []byte  `json:"lockspace,omitempty"`
	Resource  []byte  `json:"resource,omitempty"`
	Owner     *[]byte `json:"owner,omitempty"`
	UID       *uint32 `json:"uid,omitempty"`
	Mode      string  `json:"mode,omitempty"`
	State     string  `json:"state,omitempty"`
	After     uint64  `json:"after,omitempty"` // only locks with a greater ref: those of the next page
	Limit     int     `json:"limit,omitempty"`
}

// reply is the body of an answer.
type reply struct {
	Error   *errorBody        `json:"error,omitempty"`
	Locks   []json.RawMessage `json:"locks,omitempty"` // lockBody
	Next    uint64            `json:"next,omitempty"`  // the After of the next page
	Inspect *inspectionBody   `json:"inspection,omitempty"`
}

// errorBody is why a question has no other answer. The kind is an api.Kind (kindOf).
type errorBody struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// lockBody is an api.LockInfo without the session, which means nothing on another node.
type lockBody struct {
	Ref       uint64  `json:"ref"`
	Lockspace []byte  `json:"lockspace"`
	Resource  []byte  `json:"resource"`
	LockID    uint32  `json:"lockid"`
	Mode      string  `json:"mode,omitempty"`
	Wanted    string  `json:"wanted,omitempty"`
	State     string  `json:"state"`
	Token     uint64  `json:"token,omitempty"`
	Owner     *[]byte `json:"owner,omitempty"`
	Label     []byte  `json:"label,omitempty"`
	Lifetime  string  `json:"lifetime"`
	UID       uint32  `json:"uid"`
	PID       uint32  `json:"pid,omitempty"`
	Since     int64   `json:"since,omitempty"` // microseconds since 1970, by that node's clock
	OnLost    string  `json:"onLost,omitempty"`
	Waiting   int64   `json:"waiting,omitempty"` // as Since
}

// inspectionBody is what one node sees of a resource. Queues is null if the node could not look
// at them, which is not the same as empty queues.
type inspectionBody struct {
	Locks   []json.RawMessage `json:"locks,omitempty"` // lockBody
	Queues  *queuesBody       `json:"queues,omitempty"`
	Waits   []waitBody        `json:"waits,omitempty"`
	Missing []string          `json:"missing,omitempty"`
}

type queuesBody struct {
	Master     uint32     `json:"master,omitempty"`
	Complete   bool       `json:"complete,omitempty"`
	Granted    []heldBody `json:"granted,omitempty"`
	Converting []heldBody `json:"converting,omitempty"`
	Waiting    []heldBody `json:"waiting,omitempty"`
}

type heldBody struct {
	LockID uint32 `json:"lockid,omitempty"`
	Node   uint32 `json:"node"`
	Mode   string `json:"mode,omitempty"`
	Wanted string `json:"wanted,omitempty"`
}

type waitBody struct {
	Waiter partyBody `json:"waiter"`
	For    partyBody `json:"for"`
}

type partyBody struct {
	Node   uint32 `json:"node,omitempty"`
	LockID uint32 `json:"lockid,omitempty"`
	Mode   string `json:"mode,omitempty"`
	Who    []byte `json:"who,omitempty"`
}

func modeText(m dlm.Mode) string {
	if !m.Valid() {
		return ""
	}
	return m.String()
}

func parseMode(s string) dlm.Mode {
	if m, err := dlm.ParseMode(s); err == nil && s != "" {
		return m
	}
	return dlm.None
}

func filterOf(f *api.Filter) *filterBody {
	b := &filterBody{Lockspace: []byte(f.Lockspace), Resource: []byte(f.Resource), After: uint64(f.After), Limit: f.Limit}
	if f.HasOwner {
		owner := []byte(f.Owner)
		b.Owner = &owner
	}
	if f.HasUID {
		b.UID = &f.UID
	}
	if f.HasMode {
		b.Mode = modeText(f.Mode)
	}
	if f.State != 0 {
		b.State = f.State.String()
	}
	return b
}

// filter is false for a filter that this version does not understand: without it more would be
// listed than was asked for.
func (b *filterBody) filter() (f api.Filter, ok bool) {
	f = api.Filter{Lockspace: string(b.Lockspace), Resource: string(b.Resource), After: api.Ref(b.After), Limit: b.Limit}
	if b.Owner != nil {
		f.Owner, f.HasOwner = string(*b.Owner), true
	}
	if b.UID != nil {
		f.UID, f.HasUID = *b.UID, true
	}
	if b.Mode != "" {
		f.Mode, f.HasMode = parseMode(b.Mode), true
	}
	if b.State != "" {
		if f.State, ok = api.ParseLockState(b.State); !ok {
			return f, false
		}
	}
	return f, (!f.HasMode || f.Mode.Valid()) && f.Limit >= 0
}

func lockOf(l *api.LockInfo) *lockBody {
	b := &lockBody{Ref: uint64(l.Ref), Lockspace: []byte(l.Lockspace), Resource: []byte(l.Resource),
		LockID: uint32(l.LockID), Mode: modeText(l.Mode), Wanted: modeText(l.Wanted), State: l.State.String(),
		Token: l.Token, Label: []byte(l.Label), Lifetime: l.Lifetime.String(), UID: l.UID, PID: l.PID, OnLost: l.OnLost}
	if l.HasOwner {
		owner := []byte(l.Owner)
		b.Owner = &owner
	}
	if !l.Since.IsZero() {
		b.Since = l.Since.UnixMicro()
	}
	if !l.Waiting.IsZero() {
		b.Waiting = l.Waiting.UnixMicro()
	}
	return b
}

// info reads a row. A mode, state or lifetime that this version does not know stays zero. The
// lock is listed nevertheless, because a list without it would be wrong.
func (b *lockBody) info() api.LockInfo {
	l := api.LockInfo{Ref: api.Ref(b.Ref), Lockspace: string(b.Lockspace), Resource: string(b.Resource),
		LockID: dlm.LockID(b.LockID), Mode: parseMode(b.Mode), Wanted: parseMode(b.Wanted), Token: b.Token,
		Label: string(b.Label), UID: b.UID, PID: b.PID, OnLost: b.OnLost}
	l.State, _ = api.ParseLockState(b.State)
	l.Lifetime, _ = state.ParseLifetime(b.Lifetime)
	if b.Owner != nil {
		l.Owner, l.HasOwner = string(*b.Owner), true
	}
	if b.Since != 0 {
		l.Since = time.UnixMicro(b.Since)
	}
	if b.Waiting != 0 {
		l.Waiting = time.UnixMicro(b.Waiting)
	}
	return l
}

// fit writes as many locks as room bytes hold, but one at least.
func fit(locks []api.LockInfo, room int) (rows []json.RawMessage) {
	used := 0
	for i := range locks {
		row, err := json.Marshal(lockOf(&locks[i]))
		if err != nil || used+len(row) > room && i > 0 {
			break
		}
		rows, used = append(rows, row), used+len(row)+1
	}
	return rows
}

func infos(rows []json.RawMessage) ([]api.LockInfo, error) {
	out := make([]api.LockInfo, len(rows))
	for i, row := range rows {
		var b lockBody
		if err := json.Unmarshal(row, &b); err != nil {
			return nil, err
		}
		out[i] = b.info()
	}
	return out, nil
}

// maxQueue is how many locks of each queue an answer has. One takes 60 bytes.
const maxQueue = 100

func heldOf(held []dlm.Held) []heldBody {
	rows := make([]heldBody, min(len(held), maxQueue))
	for i := range rows {
		h := &held[i]
		rows[i] = heldBody{uint32(h.LockID), h.Node, modeText(h.Mode), modeText(h.Wanted)}
	}
	return rows
}

func held(rows []heldBody) []dlm.Held {
	out := make([]dlm.Held, len(rows))
	for i, h := range rows {
		out[i] = dlm.Held{LockID: dlm.LockID(h.LockID), Node: h.Node, Mode: parseMode(h.Mode), Wanted: parseMode(h.Wanted)}
	}
	return out
}

// partyOf cuts the text off after 100 bytes, maybe in the middle of a character. The text is
// carried as bytes, and the program that shows it makes it printable.
func partyOf(p *api.Party) partyBody {
	return partyBody{p.Node, uint32(p.LockID), modeText(p.Mode), []byte(p.Who[:min(len(p.Who), 100)])}
}

func (b *partyBody) party() api.Party {
	return api.Party{Node: b.Node, LockID: dlm.LockID(b.LockID), Mode: parseMode(b.Mode), Who: string(b.Who)}
}

// inspectionOf writes an inspection into 30 KB or little more, and says what it leaves out.
func inspectionOf(in *api.Inspection) *inspectionBody {
	b := &inspectionBody{Missing: in.Missing}
	left := 0
	if in.HasQueues {
		q := &in.Queues
		b.Queues = &queuesBody{q.Master, q.Complete, heldOf(q.Granted), heldOf(q.Converting), heldOf(q.Waiting)}
		for _, queue := range [][]dlm.Held{q.Granted, q.Converting, q.Waiting} {
			left += max(len(queue)-maxQueue, 0)
		}
	}
	for i := range in.Waits {
		b.Waits = append(b.Waits, waitBody{partyOf(&in.Waits[i].Waiter), partyOf(&in.Waits[i].For)})
	}
	b.Locks = fit(in.Locks, 8<<10)
	if left += len(in.Locks) - len(b.Locks); left > 0 {
		// A new array, because the present one belongs to the Inspection.
		b.Missing = append(b.Missing[:len(b.Missing):len(b.Missing)],
			fmt.Sprintf("%d locks of the resource, which do not fit into the answer of another node", left))
	}
	return b
}

func (b *inspectionBody) inspection(lockspace, resource string) (api.Inspection, error) {
	in := api.Inspection{Lockspace: lockspace, Resource: resource, Missing: b.Missing}
	var err error
	if in.Locks, err = infos(b.Locks); err != nil {
		return api.Inspection{}, err
	}
	if q := b.Queues; q != nil {
		in.HasQueues = true
		in.Queues = dlm.Queues{Master: q.Master, Complete: q.Complete, Granted: held(q.Granted),
			Converting: held(q.Converting), Waiting: held(q.Waiting)}
	}
	for i := range b.Waits {
		in.Waits = append(in.Waits, api.Wait{Waiter: b.Waits[i].Waiter.party(), For: b.Waits[i].For.party()})
	}
	return in, nil
}
