package man

import (
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/data"
)

func page(t *testing.T, name string) string {
	t.Helper()
	if name == "org.example.DlmLock.5" {
		text, err := Interface(introspection(t))
		require.NoError(t, err)
		return text
	}
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

// introspection is the XML of every object.
func introspection(t *testing.T) map[string]string {
	names, err := filepath.Glob("../data/org.example.DlmLock*.xml")
	require.NoError(t, err)
	files := map[string]string{}
	for _, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		files[name] = string(text)
	}
	require.Contains(t, files, "../data/org.example.DlmLock.xml")
	files["org.example.DlmLock.varlink"] = data.Varlink
	return files
}

var pages = []string{"dlmlockctl.1", "dlmlockd.8", "dlmlockd.toml.5", "org.example.DlmLock.5"}

// The XML as godbus and busctl understand it, independently of the generator.
type node struct {
	Interfaces []struct {
		Name       string  `xml:"name,attr"`
		Methods    []thing `xml:"method"`
		Signals    []thing `xml:"signal"`
		Properties []thing `xml:"property"`
	} `xml:"interface"`
}

type thing struct {
	Name string  `xml:"name,attr"`
	Type string  `xml:"type,attr"`
	Args []thing `xml:"arg"`
}

// Every member, argument and option of every interface is in the page.
func TestInterfacePage(t *testing.T) {
	text := page(t, "org.example.DlmLock.5")
	require.NotContains(t, text, "@")
	members := 0
	for file, source := range introspection(t) {
		if strings.HasSuffix(file, ".varlink") {
			continue
		}
		var n node
		require.NoError(t, xml.Unmarshal([]byte(source), &n), file)
		for _, i := range n.Interfaces {
			if !strings.HasPrefix(i.Name, root) {
				continue
			}
			section := sectionOf(t, text, i.Name)
			for kind, list := range map[string][]thing{"": i.Methods, "signal ": i.Signals} {
				for _, m := range list {
					members++
					_, about, ok := strings.Cut(section, ".Ss "+kind+m.Name+"(")
					require.True(t, ok, "%s %s", i.Name, m.Name)
					about, _, _ = strings.Cut(about, ".Ss ")
					for _, a := range m.Args {
						require.Contains(t, about, fmt.Sprintf("\n.It Fa \"\\&%s\" Pq %s\n", a.Name, a.Type), m.Name)
					}
				}
			}
			for _, p := range i.Properties {
				members++
				require.Contains(t, section, fmt.Sprintf("\n.It Va \"\\&%s\" Pq %s; ", p.Name, p.Type), i.Name)
			}
			for _, o := range regexp.MustCompile(`(?m)^ +- ([a-z-]+) \((.*?)\): `).FindAllStringSubmatch(source, -1) {
				require.Contains(t, section,
					fmt.Sprintf("\n.It Li \"\\&%s\" Pq %s\n", strings.ReplaceAll(o[1], "-", `\-`), o[2]))
			}
		}
	}
	require.Greater(t, members, 20)
}

// Every member and field of the Varlink interface is in the page, with what its
// description says of it.
func TestVarlinkPage(t *testing.T) {
	text := page(t, "org.example.DlmLock.5")
	_, text, ok := strings.Cut(text, ".Sh VARLINK INTERFACE\n")
	require.True(t, ok)
	text, _, _ = strings.Cut(text, "\n.Sh ")
	plain := regexp.MustCompile(`(?m)^ *#.*$`).ReplaceAllString(data.Varlink, "")
	members := regexp.MustCompile(`(?m)^(type|method|error) (\w+)`).FindAllStringSubmatch(plain, -1)
	require.Greater(t, len(members), 60)
	for _, m := range members {
		require.Contains(t, text, ".Ss "+m[1]+" "+m[2]+"\n")
	}
	fields := regexp.MustCompile(`(\w+): ([?\[\]]*\w+)`).FindAllStringSubmatch(plain, -1)
	require.Greater(t, len(fields), 150)
	for _, f := range fields {
		require.Contains(t, text, fmt.Sprintf(".It Fa \"\\&%s\" Pq %s\n", f[1], f[2]))
	}
	for _, c := range regexp.MustCompile(`(?m)^  # (\S+ \S+)`).FindAllStringSubmatch(data.Varlink, -1) {
		require.Contains(t, text, strings.ReplaceAll(c[1], ". ", ".\n"))
	}
}

// sectionOf returns the part of the page about one interface: for the root everything from METHODS
// to the end, because the others' sections follow it.
func sectionOf(t *testing.T, text, iface string) string {
	from := ".Sh " + iface + "\n"
	if iface == root {
		from = ".Sh METHODS\n"
	}
	_, section, ok := strings.Cut(text, from)
	require.True(t, ok, iface)
	section, _, _ = strings.Cut(section, ".Sh org.example")
	section, _, _ = strings.Cut(section, ".Sh ERRORS")
	return section
}

// Every error that the interface names is explained.
func TestErrors(t *testing.T) {
	text := page(t, "org.example.DlmLock.5")
	_, list, ok := strings.Cut(data.Introspection, "Errors are org.example.DlmLock.Error.*:")
	require.True(t, ok)
	list, _, _ = strings.Cut(list, "\n\n")
	list = regexp.MustCompile(`\([^)]*\)|org\.\S+`).ReplaceAllString(list, "")
	names := regexp.MustCompile(`\b[A-Z][a-z]+(?:[A-Z][a-z]+)*\b`).FindAllString(list, -1)
	require.Greater(t, len(names), 20)
	for _, name := range names {
		require.Regexp(t, `(?m)^\.It Er (.* )?`+name+`( ,.*)?$`, text)
	}
}

// The polkit actions are those of the policy file.
func TestActions(t *testing.T) {
	text := page(t, "org.example.DlmLock.5")
	policy, err := os.ReadFile("../data/org.example.DlmLock.policy")
	require.NoError(t, err)
	ids := regexp.MustCompile(`action id="([^"]+)"`).FindAllStringSubmatch(string(policy), -1)
	require.Len(t, ids, 5)
	for _, id := range ids {
		require.Contains(t, text, "\n.It Li "+id[1]+"\n")
	}
}

// dlmlockd(8) documents every option and exit code of the program.
func TestDaemonPage(t *testing.T) {
	text := page(t, "dlmlockd.8")
	source, err := os.ReadFile("../cmd/dlmlockd/flags.go")
	require.NoError(t, err)
	options := regexp.MustCompile(`(?m)^  --([a-z-]+)`).FindAllStringSubmatch(string(source), -1)
	require.GreaterOrEqual(t, len(options), 7)
	for _, o := range options {
		require.Contains(t, text, "\n.It Fl \\-"+o[1])
	}
	codes := regexp.MustCompile(`(?m)^\texit\w+ += (\d+)`).FindAllStringSubmatch(string(source), -1)
	require.GreaterOrEqual(t, len(codes), 5)
	for _, c := range codes {
		require.Contains(t, text, "\n.It "+c[1]+"\n")
	}
}

// dlmlockd.toml(5) documents every key that the reader knows, with the default in the shipped file.
func TestConfigPage(t *testing.T) {
	text := page(t, "dlmlockd.toml.5")
	reader, err := os.ReadFile("../config/parse.go")
	require.NoError(t, err)
	shipped, err := os.ReadFile("../data/dlmlockd.toml")
	require.NoError(t, err)
	keys := regexp.MustCompile("`toml:\"([a-z-]+)\"`").FindAllStringSubmatch(string(reader), -1)
	require.GreaterOrEqual(t, len(keys), 12)
	tables := map[string]string{"limits": "limits", "on-lost": "on-lost.NAME", "virtlockd": "virtlockd"}
	for _, k := range keys {
		if table, ok := tables[k[1]]; ok {
			require.Contains(t, text, "\n.Ss ["+table+"]\n")
			continue
		}
		_, about, ok := strings.Cut(text, "\n.It Cm "+k[1]+"\n")
		require.True(t, ok, k[1])
		about, _, _ = strings.Cut(about, "\n.It ")
		value := regexp.MustCompile(`(?m)^#` + k[1] + ` = (.*)$`).FindStringSubmatch(string(shipped))
		require.NotNil(t, value, k[1])
		// shown as an example, or empty
		if !slices.Contains([]string{"group", "lockspaces", "raw-value-lockspaces", "command", "uids"}, k[1]) {
			require.Contains(t, about, strings.Trim(value[1], `"`), k[1])
		}
	}
	require.Len(t, regexp.MustCompile(`(?m)^\.It Cm `).FindAllString(text, -1), len(keys)-len(tables))
}

// Every page is clean mdoc, and refers only to pages that exist.
func TestPagesAreClean(t *testing.T) {
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Fatal("groff is missing: apt-get install groff-base")
	}
	ours := strings.Join(pages, " ")
	for _, name := range pages {
		text := page(t, name)
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		out, err := exec.Command(groff, "-mandoc", "-ww", "-z", "-Tutf8", file).CombinedOutput()
		require.NoError(t, err)
		require.Empty(t, string(out))
		for i, line := range strings.Split(text, "\n") {
			require.NotRegexp(t, `\s$`, line, "%s:%d", name, i+1)
		}
		for _, x := range regexp.MustCompile(`(?m)^\.Xr (\S+) (\d)`).FindAllStringSubmatch(text, -1) {
			if strings.Contains(x[1], "lmlock") && x[1] != "lvmlockd" {
				require.Contains(t, ours, x[1]+"."+x[2], name)
			}
		}
	}
}

// If the generator can't read something, that is an error, not a page with gaps.
func TestUndocumented(t *testing.T) {
	const head, tail = `<node><interface name="org.example.DlmLock">`, `</interface></node>`
	for _, bad := range []string{
		`<method name="A"/>`,
		`<!-- B: text --><method name="A"/>`,
		"<!-- A: text\n\n @arg without colon --><method name=\"A\"/>",
		"<!-- A: text\n\n - option (s): without heading --><method name=\"A\"/>",
		`<method name="A">`,
	} {
		_, err := parse(head + bad + tail)
		require.Error(t, err, bad)
	}
	ifaces, err := parse(head +
		"<!-- A:\n @x: what\n   it is. (see below)\n\n Does it.\n\n Options:\n - o-p (a{sv}): text.\n   More: " +
		"yes.\n\n Errors: E,\n F. -->" +
		`<method name="A"><arg name="x" type="s" direction="in"/></method>` + tail)
	require.NoError(t, err)
	require.Equal(t, &member{name: "A", args: []arg{{"x", "s", "in"}}, doc: doc{
		args: map[string]string{"x": "what it is."}, text: []string{"Does it."}, list: "Options",
		entries: []entry{{"o-p", "a{sv}", "text. More: yes."}}, errors: "E, F.",
	}}, ifaces[0].methods[0])
}
