package lab_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/client"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lab/logbook"
)

// A sliceReport has the results of a slice, or of all slices.
type sliceReport struct {
	Time   string `json:"time,omitempty"`
	Kernel string `json:"kernel"`
	Seed   uint64 `json:"seed,omitempty"`
	// Ops are acquires, conversions and releases of one lock; a call may have several.
	// Each of them is judged.
	Ops     int            `json:"ops"`
	Calls   int            `json:"calls"`
	Granted int            `json:"granted"` // or released, or converted
	Refused int            `json:"refused"`
	Unknown int            `json:"unknown"`
	Missed  int            `json:"missed"`          // those that no daemon got, because none ran: no calls
	Doors   map[string]int `json:"doors,omitempty"` // calls
	// How many seconds each part of a slice took.
	Work   float64        `json:"work"`
	Quiet  float64        `json:"quiet"`
	Judge  float64        `json:"judge"`
	Faults map[string]int `json:"faults"`
	// The largest of any node's daemon at the quiet point.
	Descriptors int `json:"descriptors"`
	ResidentKB  int `json:"residentKB"`
	// How fast the clock of each node went, against this machine's: 1 is right, and 0 is a
	// node that has booted in the slice.
	Clocks []float64 `json:"clocks,omitempty"`
	// How many seconds it took until all token clocks had followed one that was set ahead.
	Follow float64 `json:"follow"`

	why map[string]int // of calls without an answer
}

func (r *sliceReport) add(o sliceReport) {
	r.Ops += o.Ops
	r.Calls += o.Calls
	r.Granted += o.Granted
	r.Refused += o.Refused
	r.Unknown += o.Unknown
	r.Missed += o.Missed
	r.Work += o.Work
	r.Quiet += o.Quiet
	r.Judge += o.Judge
	for name, n := range o.Faults {
		r.Faults[name] += n
	}
	r.Descriptors = max(r.Descriptors, o.Descriptors)
	r.ResidentKB = max(r.ResidentKB, o.ResidentKB)
}

// readReport adds up the slices of earlier runs.
func (s *soak) readReport() error {
	f, err := os.Open(s.report)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r sliceReport
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return fmt.Errorf("%s: %w", s.report, err)
		}
		if r.Kernel == s.kernel {
			s.total.add(r)
		}
	}
	return lines.Err()
}

// account is what all clients recorded, in the form that the judge needs.
type account struct {
	ops    []porcupine.Operation
	tokens map[string][]seenToken
	why    map[string]int // kinds of errors of calls whose answer does not say what happened
	report sliceReport
}

// seenToken is the fencing token of a lock that excludes others.
type seenToken struct {
	call, ret int64
	token     uint64
	owner     string
	resource  string
}

func newAccount() *account {
	return &account{tokens: map[string][]seenToken{}, why: map[string]int{}, report: sliceReport{Doors: map[string]int{}}}
}

// read adds a page. In one tick of the clock all calls begin before any ends.
func (a *account) read(owner, door string, p *logbook.Page) {
	before := logbook.NewHolding()
	for i := range p.Len() {
		e := p.Entry(i)
		op := porcupine.Operation{Input: deed{fmt.Sprintf("r%d", e.Resource), owner, e.Mode}, Output: granted,
			Call: 2 * int64(e.Call), Return: 2*int64(e.Return) + 1}
		if e.Return == 0 {
			op.Return = math.MaxInt64
		}
		switch e.Outcome {
		case logbook.Refused:
			op.Output = refused
		case logbook.Unanswered:
			op.Output = unknown
		}
		a.ops = append(a.ops, op)
		// A lock that is exclusive already keeps its token.
		fresh := e.Op == logbook.Acquire || e.Op == logbook.Convert && before.Held[e.Resource] != dlm.EX
		before.Add(i, e)
		if fresh && e.Mode == dlm.EX && e.Outcome == logbook.Done && e.Token != 0 {
			name := op.Input.(deed).resource
			a.tokens[name] = append(a.tokens[name], seenToken{op.Call, op.Return, e.Token, owner, name})
		}
		if e.Op != logbook.End {
			a.count(door, e)
		}
	}
}

func (a *account) count(door string, e logbook.Entry) {
	r := &a.report
	missed := e.Why != "" && strings.HasPrefix(string(client.NotRunning), e.Why)
	if !missed {
		r.Ops++
	}
	if e.More {
		return
	}
	if missed {
		r.Missed++
		return
	}
	r.Calls++
	r.Doors[door]++
	switch e.Outcome {
	case logbook.Done:
		r.Granted++
	case logbook.Refused:
		r.Refused++
	default:
		r.Unknown++
		a.why[e.Why]++
	}
}

// judge searches the history for two holders, and searches for a token that is not larger
// than that of a lock granted before.
func (s *soak) judge(r *sliceReport) {
	a := s.account()
	r.Ops, r.Calls, r.Granted, r.Refused, r.Unknown, r.Missed, r.Doors = a.report.Ops, a.report.Calls,
		a.report.Granted, a.report.Refused, a.report.Unknown, a.report.Missed, a.report.Doors
	r.why = a.why
	model := lockModel.ToModel()
	result, info := porcupine.CheckOperationsVerbose(model, a.ops, checkTime)
	if result != porcupine.Ok {
		name := s.keep(r)
		_ = porcupine.VisualizePath(model, info, name+".html")
		_ = os.WriteFile(name+".story", []byte(a.shortest(s.done, r.Seed)), 0o644)
	}
	require.Equal(s.t, porcupine.Ok, result, "seed %d: two holders at one time, or no time to search", r.Seed)
	for name, seen := range a.tokens {
		if wrong := wrongToken(seen); wrong != "" {
			s.keepTokens(r, a.tokens)
			s.t.Fatalf("seed %d: the token of %s went %s", r.Seed, name, wrong)
		}
	}
}

func (s *soak) account() *account {
	a := newAccount()
	for _, k := range s.soakers {
		for _, number := range k.order {
			a.read(fmt.Sprintf("n%d.%d", k.node.ID, number), k.pages[number].door, s.logbook.Page(number))
		}
	}
	return a
}

// wrongToken finds a lock that excludes others and whose token is not larger than that of
// every such lock granted before it was asked for; "" if there is none.
func wrongToken(seen []seenToken) string {
	byCall, byEnd := sortedByCall(seen), slices.Clone(seen)
	slices.SortFunc(byEnd, func(a, b seenToken) int { return cmp.Compare(a.ret, b.ret) })
	var largest uint64
	ended := 0
	for _, s := range byCall {
		for ended < len(byEnd) && byEnd[ended].ret < s.call {
			largest = max(largest, byEnd[ended].token)
			ended++
		}
		if s.token <= largest {
			return fmt.Sprintf("from %d to %d, by %s", largest, s.token, s.owner)
		}
	}
	return ""
}

func sortedByCall(seen []seenToken) []seenToken {
	byCall := slices.Clone(seen)
	slices.SortFunc(byCall, func(a, b seenToken) int { return cmp.Compare(a.call, b.call) })
	return byCall
}

// write adds the slice to the report and prints a line of progress.
func (s *soak) write(r sliceReport) {
	s.total.add(r)
	line, err := json.Marshal(r)
	require.NoError(s.t, err)
	f, err := os.OpenFile(s.report, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(s.t, err)
	_, err = f.Write(append(line, '\n'))
	require.NoError(s.t, errors.Join(err, f.Close()))
	fmt.Printf("soak %s: %d operations, %.0f/s; %d calls %v: %d done, %d refused, %d open %v; %d missed; %v\n", s.kernel,
		r.Ops, float64(r.Ops)/(r.Work+r.Quiet+r.Judge), r.Calls, r.Doors, r.Granted, r.Refused, r.Unknown, r.why,
		r.Missed, r.Faults)
	fmt.Printf("  %.0f s of work, %.0f s quiet, %.1f s judge; %d descriptors, %d KB; clocks %.3f, %.1f s to follow; "+
		"all in all %d operations, %v\n",
		r.Work, r.Quiet, r.Judge, r.Descriptors, r.ResidentKB, r.Clocks, r.Follow, s.total.Ops, s.total.Faults)
}

// text is the history, a line for each call.
func (a *account) text() string {
	ops := slices.Clone(a.ops)
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var b strings.Builder
	for _, op := range ops {
		fmt.Fprintf(&b, "%12d %20d %s\n", op.Call, op.Return, lockModel.DescribeOperation(op.Input, op.Output))
	}
	return b.String()
}

// faultLines are the faults of a slice, with the times of the history.
func faultLines(faults []sawFault) string {
	var b strings.Builder
	for _, f := range faults {
		fmt.Fprintf(&b, "%12d %20s n%d: %s\n", f.at, "fault", f.node, f.name)
	}
	return b.String()
}

// The judge finds two holders, and a token that does not grow.
func TestSoakJudge(t *testing.T) {
	l, err := logbook.Create(filepath.Join(t.TempDir(), "logbook"))
	require.NoError(t, err)
	defer l.Close()
	do := func(number int, op logbook.Op, mode dlm.Mode, token uint64) {
		p := l.Page(number)
		p.Finish(p.Begin(logbook.Entry{Op: op, Resource: 1, Mode: mode}), logbook.Done, token, "")
		l.Tick()
	}
	l.Tick()
	do(0, logbook.Acquire, dlm.EX, 7)
	do(0, logbook.Convert, dlm.EX, 7)
	do(0, logbook.Release, dlm.None, 0)
	do(1, logbook.Acquire, dlm.EX, 8)
	check := func() (porcupine.CheckResult, map[string][]seenToken) {
		a := newAccount()
		for number := range 2 {
			a.read(fmt.Sprint(number), "dbus", l.Page(number))
		}
		require.Equal(t, l.Page(0).Len()+l.Page(1).Len(), a.report.Calls)
		model := lockModel.ToModel()
		return porcupine.CheckOperationsTimeout(model, a.ops, checkTime), a.tokens
	}
	result, tokens := check()
	require.Equal(t, porcupine.Ok, result)
	require.Empty(t, wrongToken(tokens["r1"]))
	do(0, logbook.Acquire, dlm.PR, 0)
	result, _ = check()
	require.Equal(t, porcupine.Illegal, result, "a reader beside a writer")
	l.Page(0).Reset(0)
	do(1, logbook.Release, dlm.None, 0)
	do(0, logbook.Acquire, dlm.EX, 8)
	result, tokens = check()
	require.Equal(t, porcupine.Ok, result)
	require.Contains(t, wrongToken(tokens["r1"]), "from 8 to 8")
}
