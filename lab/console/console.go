// Package console keeps what a node writes to its serial console and notices
// when its kernel complains.
//
// It owns the list of complaints and what is reported of each. It refuses to
// know whose console it is and what happens because of a finding.
//
// Concurrency: all methods of a Watcher may be called from any goroutine; the
// callback is called from the goroutine that writes.
package console

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// complaints are lines with which a kernel (or the lab's init) says that
// something is broken.
var complaints = regexp.MustCompile(strings.Join([]string{
	`WARNING: CPU: \d+`,
	`WARNING: .*(lock|suspicious RCU usage)`,
	`\bBUG: `, `\bBUG at `, `kernel BUG`,
	`\bOops\b`, `general protection`, `list_(add|del) corruption|list corruption`,
	`Call Trace:`, `Kernel panic`, `blocked for more than \d+ seconds`,
	oneLine,
	`refcount_t: `, `KASAN:`, `UBSAN:`, `Out of memory: Killed`,
}, "|"))

// oneLine are the complaints without a trace: the next one may be of something
// else, also where the first is expected.
const oneLine = `dlm: .* (add|rem)wait error ` + // a result is lost: dlm/libdlm/late.go
	`|lab: init failed`

var withoutTrace = regexp.MustCompile(oneLine)

// traceLines is how many lines after a complaint belong to it at most, unless
// the kernel says where its trace ends.
const traceLines = 60

// bootLine begins what the node's first program prints when it boots.
const bootLine = "lab: "

// Finding is one complaint.
type Finding struct {
	Line    string   // the line that was recognised
	Context []string // the lines that followed, so far
}

// String is the complaint with what followed.
func (f Finding) String() string {
	return strings.Join(append([]string{f.Line}, f.Context...), "\n")
}

// Watcher is an io.Writer for a console's bytes.
type Watcher struct {
	// Log gets every byte; nil keeps none. Found is called once for each
	// finding, at its first line; nil is allowed. Set both before use.
	Log   io.Writer
	Found func(Finding)

	mu       sync.Mutex
	partial  []byte
	findings []Finding
	trace    int  // lines that may still belong to the last complaint
	excused  bool // that complaint was expected
	single   bool // that complaint has no trace
	expected []*expectation
}

// expectation is a complaint that a test provokes.
type expectation struct {
	expr *regexp.Regexp
	seen int
}

// Expect declares complaints matching the expression expected from now on:
// they are no findings. The returned function ends that and tells how many
// there were.
func (w *Watcher) Expect(expr *regexp.Regexp) (stop func() int) {
	e := &expectation{expr: expr}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expected = append(w.expected, e)
	return func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.expected = slices.DeleteFunc(w.expected, func(o *expectation) bool { return o == e })
		return e.seen
	}
}

// Findings returns what was found so far.
func (w *Watcher) Findings() []Finding {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]Finding, len(w.findings))
	for i, f := range w.findings {
		all[i] = Finding{Line: f.Line, Context: append([]string{}, f.Context...)}
	}
	return all
}

// Write takes the console's next bytes. It never fails.
func (w *Watcher) Write(p []byte) (int, error) {
	if w.Log != nil {
		// A full disk must not stop the node: the lines are still watched.
		_, _ = w.Log.Write(p)
	}
	w.mu.Lock()
	w.partial = append(w.partial, p...)
	var found []Finding
	for {
		i := bytes.IndexByte(w.partial, '\n')
		if i < 0 {
			break
		}
		line := strings.TrimRight(string(w.partial[:i]), "\r")
		w.partial = w.partial[i+1:]
		if w.take(line) {
			found = append(found, Finding{Line: line})
		}
	}
	w.mu.Unlock()
	if w.Found != nil {
		for _, f := range found {
			w.Found(f)
		}
	}
	return len(p), nil
}

// take judges one line; true for the first line of a new finding.
func (w *Watcher) take(line string) bool {
	if strings.HasPrefix(line, bootLine) {
		w.trace = 0 // the node was switched off in the middle of a trace
	}
	if w.trace > 0 && !(w.single && complaints.MatchString(line)) {
		// What follows a complaint is its trace, which holds more of the words.
		w.trace--
		if strings.Contains(line, "---[ end ") {
			w.trace = 0
		}
		if last := len(w.findings) - 1; last >= 0 && !w.excused {
			w.findings[last].Context = append(w.findings[last].Context, line)
		}
		return false
	}
	if !complaints.MatchString(line) {
		return false
	}
	w.trace = traceLines
	w.single = withoutTrace.MatchString(line)
	for _, e := range w.expected {
		if w.excused = e.expr.MatchString(line); w.excused {
			e.seen++
			return false
		}
	}
	w.excused = false
	w.findings = append(w.findings, Finding{Line: line})
	return true
}

// Report formats findings for a failing test; "" for none.
func Report(name string, findings []Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintf(&b, "console of %s:\n%s\n", name, f)
	}
	return b.String()
}
