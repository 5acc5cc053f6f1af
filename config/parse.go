package config

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/dlmlock/dlmlockd/dlm"
)

// file is the file as the TOML decoder sees it. The values are of type any, so that a message about
// a wrong type can use the terms of the file, not of Go. nil stands for a missing value.
type file struct {
	// These are described in dlmlockd.toml(5) and checked one by one below.
	Engine     any `toml:"engine"`
	Lockspaces any `toml:"lockspaces"`
	RawValues  any `toml:"raw-value-lockspaces"`
	Group      any `toml:"group"`
	OpTimeout  any `toml:"op-timeout"`
	LogLevel   any `toml:"log-level"`
	ExitOnIdle any `toml:"exit-on-idle"`
	Metrics    any `toml:"metrics-file"`
	AllNodes   any `toml:"all-nodes"`
	Limits     struct {
		LocksPerUID   any `toml:"locks-per-uid"`
		LocksPerCall  any `toml:"locks-per-call"`
		WaitingPerUID any `toml:"waiting-per-uid"`
		Processes     any `toml:"processes-per-uid"`
		OwnerBytes    any `toml:"owner-bytes"`
		LabelBytes    any `toml:"label-bytes"`
		PageSize      any `toml:"page-size"`
	} `toml:"limits"`
	OnLost    map[string]onLost `toml:"on-lost"`
	Virtlockd struct {
		Socket     any            `toml:"socket"`
		Lockspace  any            `toml:"lockspace"`
		Timeout    any            `toml:"timeout"`
		Helper     any            `toml:"helper"`
		Lockspaces map[string]any `toml:"lockspaces"`
	} `toml:"virtlockd"`
}

// onLost is a table [on-lost.NAME].
type onLost struct {
	Command any `toml:"command"`
	Timeout any `toml:"timeout"`
	UIDs    any `toml:"uids"`
	Group   any `toml:"group"`
}

// The bounds of op-timeout. A caller on the bus waits 25 s at most (the default timeout of sd-bus
// and GDBus), so a larger value would never take effect.
const (
	minOpTimeout = 100 * time.Millisecond
	maxOpTimeout = 24 * time.Second
)

// never stands for an endless duration.
const never = "never"

// The bounds of exit-on-idle. A start costs the cluster nothing, but delays a caller by some
// milliseconds.
const (
	minExitOnIdle = time.Second
	maxExitOnIdle = 30 * 24 * time.Hour
)

// Parse parses the text of a file; messages call the file name. The error is an Errors. The Config has
// what is right nevertheless, so that its user can look for more mistakes; otherwise it is of no use.
func Parse(name string, data []byte) (Config, error) {
	var f file
	err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&f)
	unknown, decoded := errors.AsType[*toml.StrictMissingError](err)
	if err != nil && !decoded {
		return Config{}, decodeErrors(name, data, err)
	}
	source := Source{file: name, at: positions(data)}
	v := validator{source: &source}
	if decoded {
		v.unknownKeys(name, unknown)
	}
	c := v.config(&f)
	c.Source = &source
	if len(v.errs) > 0 {
		v.errs.Sort()
		return c, v.errs
	}
	return c, nil
}

// unknownKeys notes the keys that the decoder does not know. It has read the others.
func (v *validator) unknownKeys(name string, unknown *toml.StrictMissingError) {
	for i := range unknown.Errors[:min(len(unknown.Errors), maxMistakes)] {
		e := fromDecode(name, &unknown.Errors[i])
		e.Text = "unknown key"
		v.errs = append(v.errs, e)
	}
}

// noTables reports the keys of a file that has to be refused which should be tables and are something
// else. The decoder would report that in terms of this package's types.
func noTables(name string, data []byte) Errors {
	var tree map[string]any
	if toml.Unmarshal(data, &tree) != nil {
		return nil // not TOML at all
	}
	v := validator{source: &Source{file: name, at: positions(data)}}
	// Returns the table of a key; nil if there is none.
	table := func(key string, value any) map[string]any {
		t, ok := value.(map[string]any)
		if !ok && value != nil {
			v.fail(key, "must be a table: a line [%s], and its keys below", key)
		}
		return t
	}
	table("limits", tree["limits"])
	table("virtlockd.lockspaces", table("virtlockd", tree["virtlockd"])["lockspaces"])
	helpers := table("on-lost", tree["on-lost"])
	for _, name := range slices.Sorted(maps.Keys(helpers)) {
		table("on-lost."+name, helpers[name])
	}
	v.errs.Sort()
	return v.errs
}

// decodeErrors turns the decoder's error into Errors. The decoder stops at it.
func decodeErrors(name string, data []byte, err error) Errors {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var es Errors
		for i := range min(len(strict.Errors), maxMistakes) {
			e := fromDecode(name, &strict.Errors[i])
			e.Text = "unknown key"
			es = append(es, e)
		}
		return es
	}
	if es := noTables(name, data); len(es) > 0 {
		return es
	}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		return Errors{fromDecode(name, de)}
	}
	return Errors{{File: name, Text: err.Error()}}
}

// fromDecode takes over what the decoder says, with its place in the file.
func fromDecode(name string, de *toml.DecodeError) *Error {
	line, col := de.Position()
	return &Error{
		File: name, Line: line, Column: col, Key: strings.Join(de.Key(), "."),
		Text: strings.TrimPrefix(de.Error(), "toml: "),
	}
}

// position is where a value begins; both numbers count from 1.
type position struct{ line, column int }

// positions maps each dotted key of a valid document to the position of its value, and key[index]
// to that of each element of an array. The decoder does not keep them.
func positions(data []byte) map[string]position {
	at := map[string]position{}
	var p unstable.Parser
	p.Reset(data)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			at[dotted(e.Key())] = begin(&p, e.Key())
			table = dotted(e.Key()) + "."
		case unstable.KeyValue:
			mark(&p, at, table+dotted(e.Key()), e)
		}
	}
	return at
}

// begin returns where a key begins.
func begin(p *unstable.Parser, key unstable.Iterator) position {
	key.Next()
	return start(p, key.Node())
}

// start returns where a node of the parser begins.
func start(p *unstable.Parser, n *unstable.Node) position {
	s := p.Shape(n.Raw).Start
	return position{s.Line, s.Column}
}

// mark notes where a value is and, of an array, where each of its elements is.
func mark(p *unstable.Parser, at map[string]position, key string, kv *unstable.Node) {
	// The position of the key stands in for that of a value whose own the parser does not keep.
	at[key] = begin(p, kv.Key())
	v := kv.Value()
	if v.Raw.Length > 0 {
		at[key] = start(p, v)
	}
	if v.Kind != unstable.Array {
		return
	}
	i := 0
	for it := v.Children(); it.Next(); i++ {
		if n := it.Node(); n.Raw.Length > 0 {
			at[fmt.Sprintf("%s[%d]", key, i)] = start(p, n)
		}
	}
}

// dotted returns the parts of a key as one. A part with a dot in it, which only a quoted key has,
// can't be told from two parts; that affects the place of a mistake and nothing else.
func dotted(it unstable.Iterator) string {
	var parts []string
	for it.Next() {
		parts = append(parts, string(it.Node().Data))
	}
	return strings.Join(parts, ".")
}

// validator checks values and collects the mistakes.
type validator struct {
	source *Source
	errs   Errors
}

// maxMistakes bounds the mistakes that are reported for one file: nobody reads more.
const maxMistakes = 100

// fail notes a mistake and goes on: a person wants to hear of all of them at once.
func (v *validator) fail(key, format string, args ...any) {
	if len(v.errs) >= maxMistakes {
		return
	}
	v.errs = append(v.errs, v.source.Mistake(key, fmt.Sprintf(format, args...)))
}

// config checks the file and fills in the defaults.
func (v *validator) config(f *file) Config {
	c := Default()
	if s, ok := v.text("engine", f.Engine); ok {
		c.Engine = s
		if !ValidEngine(s) {
			v.fail("engine", "%q is not an engine; use \"dlm\" or \"local\"", s)
		}
	}
	c.Lockspaces = v.lockspaces("lockspaces", f.Lockspaces)
	c.RawValueLockspaces = v.lockspaces("raw-value-lockspaces", f.RawValues)
	c.Group = v.group("group", f.Group, "leave the key out to let only root change locks")
	if s, ok := v.text("op-timeout", f.OpTimeout); ok {
		c.OpTimeout = v.duration("op-timeout", s, minOpTimeout, maxOpTimeout)
	}
	if s, ok := v.text("exit-on-idle", f.ExitOnIdle); ok && s != never {
		c.ExitOnIdle = v.duration("exit-on-idle", s, minExitOnIdle, maxExitOnIdle)
	}
	v.observation(f, &c)
	if f.AllNodes != nil {
		if all, ok := f.AllNodes.(bool); ok {
			c.AllNodes = all
		} else {
			v.fail("all-nodes", "use true or false, without quotes")
		}
	}
	c.Limits = v.limits(f)
	c.OnLost = v.onLost(f.OnLost)
	v.virtlockd(f, &c.Virtlockd)
	return c
}

// observation reads the settings of what the service reports about itself: the log and the metrics.
func (v *validator) observation(f *file, c *Config) {
	if s, ok := v.text("log-level", f.LogLevel); ok {
		if c.LogLevel, ok = ParseLevel(s); !ok {
			v.fail("log-level", "%q is not a level; use \"debug\", \"info\", \"warn\" or \"error\"", s)
		}
	}
	// Absolute, because the working directory of a service is / and nobody would look there.
	if s, ok := v.text("metrics-file", f.Metrics); ok && s != "" {
		c.MetricsFile = s
		v.fileName("metrics-file", s)
		if !filepath.IsAbs(s) || !strings.HasSuffix(s, ".prom") {
			v.fail("metrics-file", "%q must be an absolute path that ends in .prom, which is what node_exporter reads",
				s)
		}
	}
}

// limits reads the table [limits]. A key that is missing is 0, which stands for the default of the service
// (lockd/api.DefaultLimits). The upper bounds are typing errors rather than limits of the service, except
// that a call and a page are made in one turn of the table: more than 100,000 rows would delay everybody.
func (v *validator) limits(f *file) Limits {
	l := &f.Limits
	return Limits{
		LocksPerUID:   v.limit("limits.locks-per-uid", l.LocksPerUID, math.MaxInt32),
		LocksPerCall:  v.limit("limits.locks-per-call", l.LocksPerCall, 100_000),
		WaitingPerUID: v.limit("limits.waiting-per-uid", l.WaitingPerUID, math.MaxInt32),
		Processes:     v.limit("limits.processes-per-uid", l.Processes, 1<<20),
		OwnerBytes:    v.limit("limits.owner-bytes", l.OwnerBytes, 64<<10),
		LabelBytes:    v.limit("limits.label-bytes", l.LabelBytes, 64<<10),
		PageSize:      v.limit("limits.page-size", l.PageSize, 100_000),
	}
}

// text checks a value that must be a string; ok is false if it is missing or wrong.
func (v *validator) text(key string, value any) (s string, ok bool) {
	if value == nil {
		return "", false
	}
	if s, ok = value.(string); !ok {
		v.fail(key, "must be a string in quotes")
	}
	return s, ok
}

// fileName refuses what no file can have in its name.
func (v *validator) fileName(key, s string) {
	if strings.ContainsRune(s, 0) {
		v.fail(key, "%q can't be the path of a file: it contains the character U+0000", s)
	}
}

// lockspaces checks a list of names of lockspaces, each of which may be there once.
func (v *validator) lockspaces(key string, value any) []string {
	if value == nil {
		return nil
	}
	list, ok := value.([]any)
	if !ok {
		v.fail(key, "must be a list of names, like [\"vms\", \"images\"]")
		return nil
	}
	names := make([]string, 0, len(list))
	for i, item := range list {
		key := fmt.Sprintf("%s[%d]", key, i)
		if name, ok := v.text(key, item); ok {
			v.lockspace(key, name, names)
			names = append(names, name)
		}
	}
	return names
}

// lockspace checks one name by the rules of the kernel's DLM, which package dlm knows.
func (v *validator) lockspace(key, name string, before []string) {
	if err := dlm.CheckLockspace(name); err != nil {
		advice := ""
		if e, ok := errors.AsType[*dlm.Error](err); ok {
			advice = ": " + e.Advice
		}
		v.fail(key, "%q can't name a lockspace%s", name, advice)
	} else if slices.Contains(before, name) {
		v.fail(key, "%q is listed twice", name)
	}
}

// group checks a value that must be the name of a group; advice says what to do instead. Whether there
// is such a group is found out when the service starts: this package asks no directory service.
func (v *validator) group(key string, value any, advice string) string {
	s, ok := v.text(key, value)
	if ok && (s == "" || strings.ContainsAny(s, ": ") || strings.ContainsFunc(s, unprintable)) {
		v.fail(key, "%q is not the name of a group; %s", s, advice)
		return ""
	}
	return s
}

// duration checks a text as time.ParseDuration reads it. A number without a unit is refused, since it
// could be seconds or milliseconds.
func (v *validator) duration(key, s string, least, most time.Duration) time.Duration {
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		v.fail(key, "%q is not a duration; write it like \"10s\" or \"500ms\"", s)
	case d < least || d > most:
		v.fail(key, "%s is out of range; at least %s, at most %s", s, least, most)
	}
	return d
}

// limit checks a count; 0 is refused because one person would read it as "no limit" and another as
// "nothing allowed".
func (v *validator) limit(key string, value any, most int64) int {
	if value == nil {
		return 0
	}
	n, ok := value.(int64)
	if !ok {
		v.fail(key, "must be a number")
		return 0
	}
	if n < 1 || n > most {
		v.fail(key, "%d is out of range; at least 1, at most %d", n, most)
		return 0
	}
	return int(n)
}
