package main

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/internal/testbus"
)

// triedDocuments are documents whose commands are tried, each in one of three ways:
// typedHere, typedOnNodes, or not at all, for a reason (notTyped). A command that is in
// none of the lists fails TestCommandsOfTheDocuments, and so does an entry that no
// document has any more.
var triedDocuments = []string{"docs/installation.md", "docs/troubleshooting.md", "man/dlmlockd.8"}

// typedHere are typed in this order, against a service with the embedded engine that is
// in vms and holds disk1 and disk2 there for web. The second text is a regular expression
// for the output. A command that needs arguments which a document leaves out is asked
// for its help.
var typedHere = []struct{ command, prints string }{
	{"dlmlockctl status", `(?m)^NodeID: +1\n(?s:.*)^Quorate: +true$`},
	{"dlmlockctl doctor", `(?m)^ok +lockspace vms: `},
	{"dlmlockctl lockspaces", `(?m)^vms +ready +2 `},
	{"dlmlockctl list", `(?m)^vms/disk1 +EX +held +web `},
	{"dlmlockctl inspect LOCKSPACE RESOURCE", `^vms/disk1: held by web \(this node, EX\)\n`},
	{"dlmlockctl join NAME", `^joined vms\n$`},
	{"dlmlockctl orphans NAME", `^No orphans\.\n$`},
	{"dlmlockctl purge NAME", `^removed 0 orphans of vms\n$`},
	{"dlmlockctl join", `(?m)^  dlmlockctl join LOCKSPACE`},
	{"dlmlockctl convert", `(?m)^  dlmlockctl convert LOCKSPACE RESOURCE MODE `},
	{"dlmlockctl release", `(?m)^  dlmlockctl release LOCKSPACE RESOURCE `},
	{"dlmlockctl leave", `(?m)^  dlmlockctl leave {LOCKSPACE `},
	{"dlmlockctl release … --owner=…", `^released vms/disk2\n$`},
	{"dlmlockctl leave --all --force", `(?m)^left vms$`},
}

// typedOnNodes are commands that the walk of an administrator types on real nodes
// (lab/testdata/walk.txt), which holds what they print. Words in capitals stand for any
// word there.
var typedOnNodes = []string{
	"modinfo dlm", "modprobe dlm", "df /run",
	"systemctl enable --now corosync dlm", "systemctl start corosync dlm", "systemctl stop dlm",
	"corosync-quorumtool -s", "dlm_tool status", "dlm_tool ls", "dlm_tool leave NAME",
	"systemctl restart dlmlockd",
	"systemctl stop dlmlockd-lockspaces",
	"systemctl service-log-level dlmlockd debug", "systemctl service-log-target dlmlockd console",
	"journalctl -u dlmlockd", "journalctl -u dlmlockd -b", "journalctl -u dlm", "journalctl -u dlmlockd DLM_LOCKSPACE=vms",
	"journalctl -u dlmlockd DLM_LOCKSPACE=vms DLM_RESOURCE=disk1",
	"pkaction --verbose --action-id org.example.DlmLock.acquire",
	"dlmlockctl run -l vms -r try -- sleep 60", "dlmlockctl run -l vms -r try -- true",
	"dlmlockctl monitor", "dlmlockctl history", "dlmlockctl list --all-nodes",
	"dlmlockctl purge NAME LOCKID", "dlmlockctl adopt NAME LOCKID --owner=OWNER --label=LABEL",
	"dlmlockctl adopt NAME LOCKID --owner=OWNER --label=LABEL --uid=UID",
	"systemctl kill --signal=KILL dlmlockd; systemctl restart dlmlockd",
}

// notTyped are commands that neither types, with the reason.
var notTyped = map[string]string{
	"make deb": "make check-packages does, and installs the packages",
	"make rpm": "make check-packages does, and installs the packages",
	"apt-get install corosync dlm-controld dlmlockd": "no repository has dlmlockd; the walk installs with dpkg",
	"apt-get install dlmlockd":                       "no repository has dlmlockd; the walk upgrades with dpkg",
	"apt-get remove dlmlockd":                        "it asks first; the walk removes with dpkg, locks held and not",
	"apt-get purge":                                  "it asks first; the walk purges with dpkg",
	"dlm_tool fence_ack":                             "it is named as what is not a test",
	"dlm_tool fence_ack N": "" +
		"it is for a cluster whose fencing does not work; that of the lab does",
	"dlm_tool join": "" +
		"it is named as what another program does; lab TestStories (foreign) makes such a lockspace",
	"journalctl -b -1 -u dlmlockd-lockspaces":       "nodes of the lab keep no journal over a start",
	"dlmlockd --leave":                              "the unit of the lockspaces runs it, which the walk stops",
	"/usr/libexec/dlmlockd/virtlockd-socket enable": "lab TestLibvirtUnits does",
	"systemctl enable --now dlmlockd": "" +
		"the package enables it; the walk checks that it removes all that it has enabled",
	"systemctl disable dlmlockd": "" +
		"the package enables it; the walk checks that it removes all that it has enabled",
	// They save the records where the service can't write its directory again. That of the walk can.
	"pid=$(systemctl show --property=MainPID --value dlmlockd)":                           "not needed in the walk",
	"install -d -m 0700 /run/dlmlockd":                                                    "not needed in the walk",
	`cp "$(find /proc/$pid/fd -lname '*/state.toml (deleted)')" /run/dlmlockd/state.toml`: "not needed in the walk",
	"chmod 0600 /run/dlmlockd/state.toml":                                                 "not needed in the walk",
	// What prepares a cluster with Pacemaker. The lab has none.
	"pcs resource create dlm ocf:pacemaker:controld op monitor interval=30s on-fail=fence " +
		"clone interleave=true ordered=true": "no Pacemaker",
	"pcs resource create dlmlockd systemd:dlmlockd-lockspaces op stop timeout=90s on-fail=fence " +
		"clone interleave=true": "no Pacemaker",
	"pcs constraint order start dlm-clone then dlmlockd-clone":                        "no Pacemaker",
	"pcs constraint colocation add dlmlockd-clone with dlm-clone":                     "no Pacemaker",
	"dlmlockd --engine=local --state-dir=/run/try":                                    "TestExamplesOfTheDaemon does",
	"dlmlockd --engine=local --state-dir=/run/try --bus=none --varlink=/run/try.sock": "TestExamplesOfTheDaemon does",
}

// typed is what begins a command, where a document shows something in its typeface for
// code. A program by itself is a name.
var typed = regexp.MustCompile(`^(dlmlock(ctl|d)|systemctl|systemd-\S+|journalctl|busctl|varlinkctl|corosync\S*|` +
	`dlm_\S+|modinfo|modprobe|make|df|apt-get|pkaction|pcs|install|cp|rm|ls|cat|sh|mount|kill|virsh|chmod|pid=\S+|` +
	`/usr/\S+) `)

// commandsOf reads the commands of a document: its lines to type, and those in the text.
func commandsOf(t *testing.T, document string) []string {
	source, err := os.ReadFile("../../" + document)
	require.NoError(t, err)
	text := string(source)
	var all []string
	if strings.HasSuffix(document, ".md") {
		block := regexp.MustCompile("(?ms)^ *```\\w*\n(.*?)^ *```$|^    ([^ ].*?)\n$")
		for _, m := range block.FindAllStringSubmatch(text, -1) {
			lines := regexp.MustCompile(`\\\n +`).ReplaceAllString(m[1]+m[2], "")
			for line := range strings.Lines(lines) {
				all = append(all, strings.TrimPrefix(strings.TrimSpace(line), "# "))
			}
		}
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(block.ReplaceAllString(text, ""), -1) {
			all = append(all, strings.Join(strings.Fields(m[1]), " "))
		}
	} else {
		for _, m := range regexp.MustCompile(`(?m)^\.(?:Dl [#$]|Ql) (.+?)(?: [.,;])?$`).FindAllStringSubmatch(text, -1) {
			all = append(all, strings.ReplaceAll(m[1], `\-`, "-"))
		}
	}
	return slices.DeleteFunc(all, func(line string) bool {
		return !typed.MatchString(line)
	})
}

// Every command of the documents is tried, or left out for a reason.
func TestCommandsOfTheDocuments(t *testing.T) {
	ways := map[string]int{}
	for _, here := range typedHere {
		ways[here.command]++
	}
	for _, command := range slices.Concat(typedOnNodes, slices.Collect(maps.Keys(notTyped))) {
		ways[command]++
	}
	found := map[string]bool{}
	for _, document := range triedDocuments {
		commands := commandsOf(t, document)
		require.Greater(t, len(commands), 6, document)
		for _, command := range commands {
			require.Equal(t, 1, ways[command], "%s: %s", document, command)
			found[command] = true
		}
	}
	for command := range ways {
		require.True(t, found[command], "no document has %s", command)
	}
	walk, err := os.ReadFile("../../lab/testdata/walk.txt")
	require.NoError(t, err)
	commands := strings.Join(regexp.MustCompile(`(?m)^(?:[12]#|\|) (.*)$`).FindAllString(string(walk), -1), "\n") + "\n"
	for _, command := range typedOnNodes {
		words := regexp.MustCompile(`\b[A-Z]{3,}\b`).ReplaceAllString(regexp.QuoteMeta(command), `\S+`)
		require.True(t, regexp.MustCompile(`(?m)\b`+words+`(?:[ ;]|$)`).MatchString(commands),
			"lab/testdata/walk.txt does not type %s", command)
	}
}

// typist types what a document says, with the service of a bus.
type typist struct {
	t   *testing.T
	bus *testbus.Bus
	dir string // in place of /run/try
}

// command is what a document says, with names in place of its placeholders.
func (s typist) command(line string) *exec.Cmd {
	line = strings.NewReplacer("LOCKSPACE", "vms", "NAME", "vms", "RESOURCE", "disk1", "…", "vms disk2", "=…", "=web",
		"/run/try", s.dir).Replace(line)
	return s.bus.Typed(s.t, line, programs)
}

func (s typist) run(line string) string {
	out, err := s.command(line).CombinedOutput()
	require.NoError(s.t, err, "%s\n%s", line, out)
	return string(out)
}

// What the documents tell to type works, as far as one service without a cluster can show.
func TestTypedHere(t *testing.T) {
	s := typist{t: t, bus: busWithService(t)}
	s.run("dlmlockctl join vms")
	s.run("dlmlockctl acquire vms disk1 EX --owner=web")
	s.run("dlmlockctl acquire vms disk2 EX --owner=web")
	for _, here := range typedHere {
		line := here.command
		if strings.HasPrefix(here.prints, "(?m)^  dlmlockctl ") {
			line += " --help"
		}
		require.Regexp(t, here.prints, s.run(line), line)
	}
}

// A second "dlmlockctl run" is refused with the words of docs/installation.md. Here both
// run on one node; the walk on two nodes holds what the document shows.
func TestRefusalOfTheDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/installation.md")
	require.NoError(t, err)
	m := regexp.MustCompile("(?s)\n   # (dlmlockctl run [^\n]*)\n(.*?)   ```").FindStringSubmatch(string(text))
	require.NotNil(t, m)
	shown := strings.ReplaceAll(strings.ReplaceAll(m[2], "\n   ", "\n"), "node 1, host1", "this node")
	s := typist{t: t, bus: busWithService(t)}
	s.run("dlmlockctl join vms")
	first := s.command("dlmlockctl run -l vms -r try -- sleep 60")
	require.NoError(t, first.Start())
	t.Cleanup(func() { _ = first.Wait() })
	t.Cleanup(func() { _ = first.Process.Signal(syscall.SIGTERM) })
	require.Eventually(t, func() bool {
		return regexp.MustCompile(`vms/try +EX +held`).MatchString(s.run("dlmlockctl list"))
	}, time.Minute, 20*time.Millisecond)
	out, err := s.command(m[1]).CombinedOutput()
	require.Error(t, err)
	require.Equal(t, strings.TrimSpace(shown), strings.TrimSpace(string(out)))
	walk, err := os.ReadFile("../../lab/testdata/walk.txt")
	require.NoError(t, err)
	for line := range strings.Lines(strings.TrimSpace(m[2])) {
		onNodes := strings.ReplaceAll(strings.TrimSpace(line), "host1", "node1")
		require.Contains(t, string(walk), "\n> ^"+strings.NewReplacer("(", `\(`, ")", `\)`).Replace(onNodes)+"$\n")
	}
}

// The configuration in docs/installation.md is without mistakes.
func TestConfigurationOfTheDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/installation.md")
	require.NoError(t, err)
	m := regexp.MustCompile("(?s)`/etc/dlmlockd.toml`, on both:\n   ```\n(.*?)   ```").FindStringSubmatch(string(text))
	require.NotNil(t, m)
	file := filepath.Join(t.TempDir(), "dlmlockd.toml")
	require.NoError(t, os.WriteFile(file, []byte(m[1]), 0o600))
	out, err := exec.CommandContext(t.Context(), filepath.Join(programs, "dlmlockd"), "--check", "--config="+file).
		CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "dlmlockd: the configuration is good\n", string(out))
}

// The examples of dlmlockd(8) that start the service do: with a bus, and without.
func TestExamplesOfTheDaemon(t *testing.T) {
	s := typist{t: t, bus: testbus.Start(t, testbus.Daemon), dir: filepath.Join(t.TempDir(), "try")}
	starts := slices.DeleteFunc(commandsOf(t, "man/dlmlockd.8"), func(line string) bool {
		return !strings.HasPrefix(line, "dlmlockd --engine=local")
	})
	require.Len(t, starts, 2)
	for _, line := range starts {
		daemon := s.command(line)
		require.NoError(t, daemon.Start())
		t.Cleanup(func() { _ = daemon.Process.Kill() })
		status := "dlmlockctl status"
		if strings.Contains(line, "--varlink=") {
			status = "dlmlockctl --varlink=/run/try.sock status"
		}
		require.Eventually(t, func() bool {
			out, err := s.command(status).Output()
			return err == nil && strings.Contains(string(out), s.dir+"/state.toml")
		}, time.Minute, 20*time.Millisecond, line)
		require.NoError(t, daemon.Process.Signal(syscall.SIGTERM))
		require.NoError(t, daemon.Wait(), line)
	}
}

// What docs/troubleshooting.md quotes from messages is in the source, word for word:
// people search for it. Quotes of two words or fewer are names of sections.
func TestQuotesOfTroubleshooting(t *testing.T) {
	var source strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (strings.HasPrefix(d.Name(), ".git") || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	})
	require.NoError(t, err)
	texts := regexp.MustCompile(`"\s*\+\s*"`).ReplaceAllString(source.String(), "")
	document, err := os.ReadFile("../../docs/troubleshooting.md")
	require.NoError(t, err)
	plain := regexp.MustCompile("(?m)`[^`]*`|^    .*$").ReplaceAllString(string(document), "")
	plain = strings.Join(strings.Fields(plain), " ")
	quotes := 0
	for _, m := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(plain, -1) {
		if strings.Count(m[1], " ") >= 2 {
			require.True(t, strings.Contains(texts, m[1]), "no message has %q", m[1])
			quotes++
		}
	}
	require.Greater(t, quotes, 8)
}
