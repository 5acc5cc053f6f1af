package varlink

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/data"
	"github.com/dlmlock/dlmlockd/dlm"
	"github.com/dlmlock/dlmlockd/lockd/api"
)

// idl is an interface as it is described.
type idl struct {
	name    string
	types   map[string]*record // nil fields: an enumeration
	enums   map[string][]string
	methods map[string][2]*record
	errors  map[string]*record
	order   []string // members, "kind name"
}

// record is a struct, or the parameters of a member.
type record struct{ fields []idlField }

type idlField struct{ name, kind string }

// parseIDL reads an interface description (varlink.org, "Interface Definition"),
// and checks that each member and each field is documented directly before it.
func parseIDL(t *testing.T, text string, documented bool) *idl {
	t.Helper()
	i := &idl{types: map[string]*record{}, enums: map[string][]string{}, methods: map[string][2]*record{},
		errors: map[string]*record{}}
	before := ""
	for n, line := range strings.Split(text, "\n") {
		first, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		member := slices.Contains([]string{"interface", "type", "method", "error"}, first)
		if documented && member {
			require.True(t, strings.HasPrefix(before, "#"), "line %d, %q: it has no description before it", n+1, line)
		}
		before = strings.TrimSpace(line)
	}
	plain := regexp.MustCompile(`(?m)#.*$`).ReplaceAllString(text, "")
	tokens := regexp.MustCompile(`->|\?\[\]|\[\]|\?|[(),:]|[A-Za-z0-9_.]+`).FindAllString(plain, -1)
	p := &idlParser{t, tokens}
	for len(p.tokens) > 0 {
		kind, name := p.next(), p.next()
		i.order = append(i.order, kind+" "+name)
		switch kind {
		case "interface":
			i.name = name
		case "type":
			if s := p.body(); len(s.fields) > 0 && s.fields[0].kind == "" {
				for _, f := range s.fields {
					i.enums[name] = append(i.enums[name], f.name)
				}
			} else {
				i.types[name] = s
			}
		case "method":
			in := p.body()
			require.Equal(t, "->", p.next())
			i.methods[name] = [2]*record{in, p.body()}
		case "error":
			i.errors[name] = p.body()
		default:
			require.Fail(t, "unknown: "+kind)
		}
	}
	return i
}

type idlParser struct {
	t      *testing.T
	tokens []string
}

func (p *idlParser) next() string {
	require.NotEmpty(p.t, p.tokens)
	s := p.tokens[0]
	p.tokens = p.tokens[1:]
	return s
}

func (p *idlParser) body() *record {
	require.Equal(p.t, "(", p.next())
	s := new(record)
	for tok := p.next(); tok != ")"; tok = p.next() {
		if tok == "," {
			continue
		}
		f := idlField{name: tok}
		if p.tokens[0] == ":" {
			p.next()
			for f.kind = p.next(); strings.HasSuffix(f.kind, "?") || strings.HasSuffix(f.kind, "[]"); {
				f.kind += p.next()
			}
		}
		s.fields = append(s.fields, f)
	}
	return s
}

// goFields are the fields of a struct as the description would have them.
func (i *idl) goFields(t *testing.T, of reflect.Type) (fields []idlField) {
	t.Helper()
	for n := range of.NumField() {
		f := of.Field(n)
		if f.Anonymous {
			fields = append(fields, i.goFields(t, f.Type)...)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" {
			continue
		}
		kind := f.Type
		null := ""
		if kind.Kind() == reflect.Pointer {
			null, kind = "?", kind.Elem()
		} else if options != "" {
			null = "?"
		}
		fields = append(fields, idlField{name, null + goKind(kind)})
	}
	return fields
}

func goKind(k reflect.Type) string {
	switch k.Kind() {
	case reflect.Slice:
		if k.Elem().Kind() == reflect.Uint8 {
			return "string"
		}
		return "[]" + goKind(k.Elem())
	case reflect.Struct:
		return strings.ToUpper(k.Name()[:1]) + k.Name()[1:]
	case reflect.Int, reflect.Int64, reflect.Uint32, reflect.Uint64:
		return "int"
	}
	return k.Kind().String()
}

// requireSame compares a struct with its description; an enumeration is a string
// here. The order does not matter.
func (i *idl) requireSame(t *testing.T, want *record, of any, what string) {
	t.Helper()
	sorted := func(fields []idlField) []string {
		var s []string
		for _, f := range fields {
			kind := f.kind
			if _, enum := i.enums[strings.TrimLeft(kind, "?[]")]; enum {
				kind = kind[:len(kind)-len(strings.TrimLeft(kind, "?[]"))] + "string"
			}
			s = append(s, f.name+": "+kind)
		}
		slices.Sort(s)
		return s
	}
	require.Equal(t, sorted(want.fields), sorted(i.goFields(t, reflect.TypeOf(of))), what)
}

// The types here are those of the description, and the methods too.
func TestInterface(t *testing.T) {
	i := parseIDL(t, data.Varlink, true)
	require.Equal(t, Interface, i.name)
	for name, of := range map[string]any{
		"Want": want{}, "Name": name{}, "Selector": selector{}, "Grant": grant{},
		"Holder": holder{}, "Waiting": waiting{},
		"Lock": lock{}, "Lost": lost{}, "ClusterNode": clusterNode{},
		"Queued": queued{}, "Queues": queues{}, "Wait": wait{}, "Blocking": blocking{},
		"Health": health{}, "Lockspace": lockspace{}, "Orphan": orphan{}, "Bucket": bucket{}, "Latency": latency{},
		"Counters": counters{}, "Service": service{}, "Request": request{},
		"Blocker": blocker{}, "Waiter": waiter{}, "NodeName": nodeName{},
	} {
		require.Contains(t, i.types, name)
		i.requireSame(t, i.types[name], of, name)
		delete(i.types, name)
	}
	require.Empty(t, i.types)
	for name, out := range map[string]any{
		"Acquire": acquireOut{}, "AcquireMany": acquireManyOut{}, "Convert": convertOut{}, "Release": nothing{},
		"ReleaseOwner": releasedOut{}, "ReleaseMany": releasedOut{}, "Inspect": inspectOut{}, "ListLocks": listLocksOut{},
		"ListLost": listLostOut{}, "ListNodes": listNodesOut{}, "ListWaits": listWaitsOut{},
		"ListLockspaces": listLockspacesOut{},
		"JoinLockspace":  nothing{}, "LeaveLockspace": nothing{},
		"ListOrphans": listOrphansOut{}, "AdoptOrphan": adoptOut{}, "Purge": purgeOut{}, "Describe": describeOut{},
		"Monitor": monitorOut{},
	} {
		m := methods[Interface+"."+name]
		require.NotNil(t, m, name)
		require.Contains(t, i.methods, name)
		i.requireSame(t, i.methods[name][0], reflect.ValueOf(m.input()).Elem().Interface(), name+" in")
		i.requireSame(t, i.methods[name][1], out, name+" out")
		delete(i.methods, name)
	}
	require.Empty(t, i.methods)
	require.Len(t, methods, 19)
}

// Each kind of error that a call can end with is described.
func TestErrorsAreDescribed(t *testing.T) {
	i := parseIDL(t, data.Varlink, true)
	kinds := []api.Kind{
		api.WouldBlock, api.Timeout, api.Canceled, api.Deadlock, api.NotHeld, api.Ambiguous, api.AlreadyHeld,
		api.NoSuchLockspace,
		api.InvalidMode, api.InvalidName, api.LimitExceeded, api.NotQuorate, api.LockspaceStopped, api.LockspaceInUse,
		api.LockspaceForeign, api.ClusterUnavailable, api.StateWriteFailed, api.KernelError, api.ShuttingDown,
		api.NotSupported,
		api.Internal, noSuchLock, invalidConfiguration,
	}
	for _, k := range kinds {
		require.Contains(t, i.errors, string(k))
		require.Equal(t, idlField{"message", "string"}, i.errors[string(k)].fields[0], k)
	}
	require.Len(t, i.errors, len(kinds))
	var all []idlField
	for _, e := range i.errors {
		for _, f := range e.fields {
			if !slices.ContainsFunc(all, func(o idlField) bool { return o.name == f.name }) {
				f.kind = strings.TrimPrefix(f.kind, "?")
				all = append(all, f)
			}
		}
	}
	require.Len(t, all, reflect.TypeOf(failure{}).NumField())
}

// The enumerations are those of the service.
func TestEnumerations(t *testing.T) {
	i := parseIDL(t, data.Varlink, true)
	var modes []string
	for _, m := range dlm.Modes {
		modes = append(modes, modeName(m))
	}
	require.Equal(t, modes, i.enums["Mode"])
	require.Equal(t, []string{"persistent", "connection", "process", descriptor}, i.enums["Lifetime"])
	require.Equal(t, []string{"acquiring", "held", "converting", "releasing"}, i.enums["State"])
	for n, s := range i.enums["State"] {
		require.Equal(t, s, api.LockState(n+1).String())
	}
	require.ElementsMatch(t, eventKinds, i.enums["EventKind"])
	for n, s := range i.enums["LockspaceState"][:4] {
		require.Equal(t, s, api.SpaceState(n+1).String())
	}
}

// The standard interfaces are described as they are served.
func TestStandardInterfaces(t *testing.T) {
	all := map[string]bool{}
	for _, face := range interfaces {
		i := parseIDL(t, face.description, face.name != "org.varlink.service")
		require.Equal(t, face.name, i.name)
		for m := range i.methods {
			all[face.name+"."+m] = true
		}
	}
	for m := range standard {
		require.True(t, all[m], m)
		delete(all, m)
	}
	for m := range methods {
		delete(all, m)
	}
	require.Empty(t, all, fmt.Sprint("not served: ", all))
}

// Every hint is worded for those who call over Varlink, and the words name methods and fields that
// the interface has.
func TestHintsAreWorded(t *testing.T) {
	named := regexp.MustCompile(`\b(?:[A-Z][a-z]+(?:[A-Z][A-Za-z]+)?|[a-z]+[A-Z][A-Za-z]*)\b`)
	for _, h := range api.Hints {
		words := wording.Hints[h]
		require.NotEmpty(t, words, h)
		require.NotContains(t, words, "-usec", h)
		for _, name := range named.FindAllString(words, -1) {
			require.Regexp(t, `(?m)^(method `+name+`\(|  `+name+`: )`, data.Varlink, "%s: %s", h, name)
		}
	}
	e := &api.Error{Op: "acquire", Lockspace: "vms", Resource: "r", Mode: dlm.EX, Kind: api.WouldBlock,
		Text: "another lock is in the way", Hint: api.HintWait, Holder: &api.HeldBy{Node: 2, Mode: dlm.EX}}
	require.Equal(t,
		"acquire vms/r EX: another lock is in the way; try again later or wait with waitUSec; held by node 2 (EX)",
		wording.Message(e))
}

// Every argument and every operation that an error can be about has a name of this interface.
func TestErrorsSpeakVarlink(t *testing.T) {
	sources := func(dirs ...string) (text string) {
		for _, dir := range dirs {
			files, err := filepath.Glob("../" + dir + "/*.go")
			require.NoError(t, err)
			require.NotEmpty(t, files, dir)
			for _, file := range files {
				b, err := os.ReadFile(file)
				require.NoError(t, err)
				text += string(b)
			}
		}
		return text
	}
	arguments := regexp.MustCompile(`Arg\w+ +Argument = "(.+)"`).FindAllStringSubmatch(sources("lockd/api"), -1)
	require.Greater(t, len(arguments), 20)
	for _, a := range arguments {
		require.Regexp(t, `(?m)^  `+field(api.Argument(a[1]))+`: `, data.Varlink, a[1])
	}
	operations := regexp.MustCompile(`\) (?:Op|Name)\(\) string +{ return "(.+)" }`).
		FindAllStringSubmatch(sources("frontend", "lockd/table"), -1)
	require.Greater(t, len(operations), 20)
	for _, o := range operations {
		message := wording.Message(&api.Error{Op: o[1], Mode: dlm.None, Text: "t"})
		require.Regexp(t, `^[a-z ]+: t$`, message)
		require.NotContains(t, message, "subscribe", "Varlink has Monitor")
		require.NotContains(t, message, "request", "Varlink has Acquire")
	}
}
