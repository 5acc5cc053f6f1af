package dbus

import (
	"encoding/xml"
	"regexp"
	"slices"
	"strings"
	"testing"

	godbus "github.com/godbus/dbus/v5"
	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/data"
	"github.com/dlmlock/dlmlockd/frontend"
	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// The interface as data/org.example.DlmLock.xml has it.
type xmlNode struct {
	Name       string         `xml:"name,attr"`
	Interfaces []xmlInterface `xml:"interface"`
	Nodes      []xmlNode      `xml:"node"`
}

type xmlInterface struct {
	Name       string        `xml:"name,attr"`
	Methods    []xmlMember   `xml:"method"`
	Signals    []xmlMember   `xml:"signal"`
	Properties []xmlProperty `xml:"property"`
}

type xmlMember struct {
	Name string   `xml:"name,attr"`
	Args []xmlArg `xml:"arg"`
}

type xmlArg struct {
	Name      string `xml:"name,attr"`
	Type      string `xml:"type,attr"`
	Direction string `xml:"direction,attr"`
}

type xmlProperty struct {
	Name        string `xml:"name,attr"`
	Type        string `xml:"type,attr"`
	Access      string `xml:"access,attr"`
	Annotations []struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	} `xml:"annotation"`
}

func (m xmlMember) signature(direction string) string {
	var b strings.Builder
	for _, a := range m.Args {
		if a.Direction == direction {
			b.WriteString(a.Type)
		}
	}
	return b.String()
}

// contracts are the XML files with what serves them.
func contracts() map[string]*node {
	t := newTree()
	all := map[string]*node{data.Introspection: t.nodes[string(Path)],
		data.LogControlIntrospection: t.nodes[string(logControlPath)]}
	for _, k := range t.kinds {
		all[k.node.xml] = k.node
	}
	return all
}

// eachInterface runs f for every interface of every file.
func eachInterface(t *testing.T, f func(text string, x xmlInterface, i *iface)) {
	all := contracts()
	require.Len(t, all, 5)
	for text, served := range all {
		var doc xmlNode
		require.NoError(t, xml.Unmarshal([]byte(text), &doc))
		require.Equal(t, served.ifaces[0].name, doc.Interfaces[0].Name)
		require.Len(t, served.ifaces, len(doc.Interfaces))
		for _, x := range doc.Interfaces {
			i := served.iface(x.Name)
			require.NotNil(t, i, x.Name)
			f(text, x, i)
		}
	}
}

// The tables here are the XML's: the same interfaces, members, signatures.
func TestContractMethods(t *testing.T) {
	eachInterface(t, func(_ string, x xmlInterface, i *iface) {
		require.Len(t, i.methods, len(x.Methods), x.Name)
		for _, xm := range x.Methods {
			m := i.methods[xm.Name]
			require.NotNil(t, m, xm.Name)
			require.Equal(t, xm.signature("in"), m.in, xm.Name)
			require.Equal(t, xm.signature("out"), m.out, xm.Name)
			require.True(t, (m.parse == nil) != (m.inline == nil), xm.Name)
		}
	})
}

// The properties are the XML's, and all say how they change.
func TestContractProperties(t *testing.T) {
	eachInterface(t, func(_ string, x xmlInterface, i *iface) {
		require.Len(t, i.props, len(x.Properties), x.Name)
		for _, xp := range x.Properties {
			p := i.property(xp.Name)
			require.NotNil(t, p, xp.Name)
			require.Equal(t, xp.Type, p.sig.String(), xp.Name)
			writable := x.Name == ifaceLogControl && p.emits != emitsConst
			require.Equal(t, writable, xp.Access == "readwrite", xp.Name)
			require.True(t, writable || xp.Access == "read", xp.Name)
			require.Len(t, xp.Annotations, 1, xp.Name)
			require.Equal(t, "org.freedesktop.DBus.Property.EmitsChangedSignal", xp.Annotations[0].Name)
			require.Equal(t, xp.Annotations[0].Value, string(p.emits), xp.Name)
		}
	})
}

// The signals are the XML's.
func TestContractSignals(t *testing.T) {
	sigs := map[string]godbus.Signature{
		"LockLost": sigLockLost, "Lost": sigLost, "Blocking": sigBlocking, "LockspaceChanged": sigLockspaceChanged,
		"SubscriptionLost": sigNone, "Completed": sigCompleted,
		"InterfacesAdded": sigInterfacesAdded, "InterfacesRemoved": sigInterfacesRemoved,
		"PropertiesChanged": sigPropertiesChanged,
	}
	seen := map[string]bool{}
	eachInterface(t, func(_ string, x xmlInterface, _ *iface) {
		for _, s := range x.Signals {
			require.Equal(t, s.signature(""), sigs[s.Name].String(), s.Name)
			seen[s.Name] = true
		}
	})
	require.Len(t, seen, len(sigs))
}

// keys are the keys and types of option tables.
func keys[T any](known []frontend.Option[T]) []string {
	out := []string{}
	for _, o := range known {
		out = append(out, optionName(o.Name)+" ("+signatures[o.Kind]+")")
	}
	slices.Sort(out)
	return out
}

var (
	optionLine = regexp.MustCompile(`(?m)^ +- ([a-z-]+ \([a-z(){}]+\)): \S`)
	argLine    = regexp.MustCompile(`(?m)^ +@([a-z_]+): \S`)
)

// Every member, argument, option and property is documented, and nothing that
// is not there.
func TestContractDocumentation(t *testing.T) {
	options := map[string][]string{
		"Acquire": keys(frontend.AcquireOptions), "AcquireMany": keys(frontend.AcquireManyOptions),
		"Request": keys(frontend.RequestOptions), "Convert": keys(frontend.ConvertOptions),
		"Release": keys(frontend.ReleaseOptions), "ReleaseMany": keys(frontend.ReleaseManyOptions),
		"ListLocks": keys(frontend.ListOptions), "ListLost": keys(frontend.ListLostOptions),
		"ListWaits":      keys(frontend.ListWaitsOptions),
		"JoinLockspace":  keys(frontend.JoinOptions),
		"LeaveLockspace": keys(frontend.LeaveOptions), "Lockspace.Leave": keys(frontend.LeaveOptions),
		"Purge": keys(frontend.PurgeOptions), "AdoptOrphan": keys(frontend.AdoptOptions),
		"Lock.Convert": keys(convertLockOptions), "Lock.Release": keys(releaseLockOptions),
	}
	eachInterface(t, func(text string, x xmlInterface, _ *iface) {
		if !strings.HasPrefix(x.Name, Name) {
			return
		}
		for _, m := range append(x.Methods, x.Signals...) {
			doc := comment(t, text, m.Name)
			var args []string
			for _, a := range m.Args {
				args = append(args, a.Name)
			}
			require.Equal(t, args, matches(argLine, doc), m.Name)
			_, opts, has := strings.Cut(doc, "Options:\n")
			where := strings.TrimPrefix(strings.TrimPrefix(x.Name, Name)+"."+m.Name, ".")
			if want := options[where]; len(want) > 0 {
				require.True(t, has, m.Name)
				found := matches(optionLine, opts)
				slices.Sort(found)
				require.Equal(t, want, found, m.Name)
			} else {
				require.False(t, has, m.Name)
			}
		}
		for _, p := range x.Properties {
			require.Regexp(t, `<!-- `+p.Name+`: ["A-Z][^>]+\. -->\n +<property name="`+p.Name+`"`, text)
		}
	})
}

// The details that Inspect returns have the documented types.
func TestContractDetails(t *testing.T) {
	doc := comment(t, data.Introspection, "Inspect")
	for _, line := range []string{
		"locks (" + sigOf([]lockRow{}), "lost (" + sigOf([]lostRow{}), "granted (" + sigOf([]queueRow{}),
		"holder (" + sigOf(holderRow{}), "value (" + sigOf([]byte{}), "members (" + sigOf([]uint32{}),
	} {
		require.Contains(t, doc, "- "+line+")")
	}
	methods := newTree().nodes[string(Path)].iface(Name).methods
	require.Equal(t, methods["AcquireMany"].out, sigOf([]grantRow{}))
	require.Equal(t, methods["ListLocks"].out, sigOf([]lockRow{}))
	require.Equal(t, methods["ListLost"].out, sigOf([]lostRow{}))
	require.Equal(t, methods["ListWaits"].out, sigOf([]waiterRow{}))
	require.Equal(t, methods["ListLockspaces"].out, sigOf([]spaceRow{}))
	require.Equal(t, methods["ListOrphans"].out, sigOf([]orphanRow{}))
}

func sigOf(v any) string { return godbus.SignatureOf(v).String() }

// comment is the documentation of a member.
func comment(t *testing.T, text, member string) string {
	m := regexp.MustCompile(`(?s)<!--\n +` + member + `:\n(.*?)-->\n +<(?:method|signal) name="` + member + `"`).
		FindStringSubmatch(text)
	require.NotNil(t, m, "%s has no comment in front", member)
	require.NotContains(t, m[1], "<", member)
	return m[1]
}

func matches(re *regexp.Regexp, s string) []string {
	var out []string
	for _, m := range re.FindAllStringSubmatch(s, -1) {
		out = append(out, m[1])
	}
	return out
}

// Introspect serves the file as it is, and leads there from "/".
func TestIntrospect(t *testing.T) {
	testbus.ForEach(t, func(t *testing.T, b *testbus.Bus) {
		nobody := newRig(t, b, rigConfig{}).dial(testbus.Nobody)
		for p, want := range map[godbus.ObjectPath]string{Path: data.Introspection,
			logControlPath: data.LogControlIntrospection} {
			testLeads(t, nobody, string(p))
			require.Equal(t, want, introspect(t, nobody, string(p)))
		}
	})
}

// testLeads follows Introspect from "/" to an object.
func testLeads(t *testing.T, nobody *client, to string) {
	path := "/"
	for _, child := range strings.Split(strings.Trim(to, "/"), "/") {
		var n xmlNode
		require.NoError(t, xml.Unmarshal([]byte(introspect(t, nobody, path)), &n))
		require.True(t, slices.ContainsFunc(n.Nodes, func(c xmlNode) bool { return c.Name == child }), "%s below %s",
			child, path)
		path = strings.TrimSuffix(path, "/") + "/" + child
	}
}

func introspect(t *testing.T, c *client, path string) string {
	var text string
	require.NoError(t, c.conn.Object(Name, godbus.ObjectPath(path)).
		Call(ifaceIntrospectable+".Introspect", 0).Store(&text))
	return text
}
