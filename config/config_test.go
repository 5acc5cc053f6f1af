package config_test

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dlmlock/dlmlockd/config"
)

func TestEverythingSet(t *testing.T) {
	c, err := config.Parse("x.toml", []byte(`
engine = "local"
lockspaces = ["vms", "images"]
raw-value-lockspaces = ["images"]
group = "dlmlock"
op-timeout = "5s"
log-level = "debug"
exit-on-idle = "10m"
all-nodes = false
metrics-file = "/var/cache/dlmlockd/dlmlockd.prom"
[limits]
locks-per-uid = 1
locks-per-call = 2
waiting-per-uid = 3
processes-per-uid = 7
owner-bytes = 4
label-bytes = 5
page-size = 6
[on-lost.libvirt]
command = ["/usr/libexec/dlmlockd/libvirt-lost", "-v"]
timeout = "1m"
uids = [107, 108]
group = "libvirt"
[on-lost.page]
command = ["/bin/page"]
[virtlockd]
socket = "/run/libvirt/virtlockd-sock"
lockspace = "guests"
timeout = "3s"
helper = "page"
[virtlockd.lockspaces]
"/var/lib/libvirt/lockd/lvmvolumes/" = "volumes"
"/var/lib/libvirt/lockd/scsivolumes" = "guests"
`))
	require.NoError(t, err)
	c.Source = nil
	require.Equal(t, config.Config{
		Engine: "local", Lockspaces: []string{"vms", "images"}, RawValueLockspaces: []string{"images"},
		Group:     "dlmlock",
		OpTimeout: 5 * time.Second, LogLevel: slog.LevelDebug, ExitOnIdle: 10 * time.Minute,
		MetricsFile: "/var/cache/dlmlockd/dlmlockd.prom",
		Limits: config.Limits{LocksPerUID: 1, LocksPerCall: 2, WaitingPerUID: 3, Processes: 7, OwnerBytes: 4,
			LabelBytes: 5, PageSize: 6},
		OnLost: map[string]config.OnLost{
			"libvirt": {Command: []string{"/usr/libexec/dlmlockd/libvirt-lost", "-v"}, Timeout: time.Minute,
				UIDs: []uint32{107, 108}, Group: "libvirt"},
			"page": {Command: []string{"/bin/page"}, Timeout: config.DefaultOnLostTimeout},
		},
		Virtlockd: config.Virtlockd{Socket: "/run/libvirt/virtlockd-sock", Lockspace: "guests",
			Helper: "page", Timeout: 3 * time.Second,
			Lockspaces: map[string]string{"/var/lib/libvirt/lockd/lvmvolumes": "volumes",
				"/var/lib/libvirt/lockd/scsivolumes": "guests"}},
	}, c)
	require.Equal(t, []string{"guests", "volumes"}, c.Virtlockd.All())
}

func TestEmptyFileIsTheDefault(t *testing.T) {
	c, err := config.Parse("x.toml", nil)
	require.NoError(t, err)
	c.Source = nil
	require.Equal(t, config.Default(), c)
	require.Equal(t, "dlm", c.Engine, "never local unless asked by name")
}

func TestMistakesSayWhere(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "engine = \"dlm\"\nengin = \"local\"\n", `x.toml:2:1: engin: unknown key`},
		{"unknown key in a table", "[limits]\nlocks-per-user = 3\n", `x.toml:2:1: limits.locks-per-user: unknown key`},
		{"unknown table", "[bus]\naddress = \"x\"\n", `x.toml:1:2: bus: unknown key`},
		{"syntax", "engine = \n", `x.toml:1:10: unexpected character U+000A at start of value`},
		{"type", "\nengine = 3\n", `x.toml:2:10: engine: must be a string in quotes`},
		{"type of a limit", "[limits]\npage-size = \"3\"\n", `x.toml:2:13: limits.page-size: must be a number`},
		{"type of a list", "lockspaces = \"vms\"\n",
			`x.toml:1:14: lockspaces: must be a list of names, like ["vms", "images"]`},
		{"type in a list", "lockspaces = [\"vms\", 3]\n", `x.toml:1:22: lockspaces[1]: must be a string in quotes`},
		{"engine", "engine = \"dml\"\n", `x.toml:1:10: engine: "dml" is not an engine; use "dlm" or "local"`},
		{"lockspace", "lockspaces = [\n \"ok\",\n \"a b\",\n]\n",
			`x.toml:3:2: lockspaces[1]: "a b" can't name a lockspace: a lockspace name has only letters, digits and _ - . +`},
		{"lockspace twice", "lockspaces = [\"a\", \"a\"]\n", `x.toml:1:20: lockspaces[1]: "a" is listed twice`},
		{"group", "group = \"\"\n",
			`x.toml:1:9: group: "" is not the name of a group; leave the key out to let only root change locks`},
		{"timeout text", "op-timeout = \"soon\"\n",
			`x.toml:1:14: op-timeout: "soon" is not a duration; write it like "10s" or "500ms"`},
		{"timeout long", "op-timeout = \"1m\"\n",
			`x.toml:1:14: op-timeout: 1m is out of range; at least 100ms, at most 24s`},
		{"all-nodes as text", "all-nodes = \"no\"\n",
			`x.toml:1:13: all-nodes: use true or false, without quotes`},
		{"idle too short", "exit-on-idle = \"10ms\"\n",
			`x.toml:1:16: exit-on-idle: 10ms is out of range; at least 1s, at most 720h0m0s`},
		{"socket of virtlockd", "[virtlockd]\nsocket = \"sock\"\n",
			`x.toml:2:10: virtlockd.socket: "sock" must be an absolute path`},
		{"timeout of virtlockd", "[virtlockd]\ntimeout = \"2m\"\n",
			`x.toml:2:11: virtlockd.timeout: 2m is out of range; at least 100ms, at most 1m0s`},
		{"helper of virtlockd", "[virtlockd]\nhelper = \"libvirt\"\n",
			`x.toml:2:10: virtlockd.helper: there is no table [on-lost.libvirt]`},
		{"directory of virtlockd", "[virtlockd.lockspaces]\n\"files\" = \"libvirt\"\n",
			`x.toml:2:11: virtlockd.lockspaces.files: "files" must be the absolute path of a lockspace ` +
				`directory in qemu-lockd.conf`},
		{"lockspace of virtlockd", "[virtlockd.lockspaces]\n\"/files.d\" = 5\n",
			`x.toml:2:14: virtlockd.lockspaces./files.d: must be a string in quotes`},
		{"metrics file", "metrics-file = \"x.prom\"\n",
			`x.toml:1:16: metrics-file: "x.prom" must be an absolute path that ends in .prom, ` +
				`which is what node_exporter reads`},
		{"level", "log-level = \"loud\"\n",
			`x.toml:1:13: log-level: "loud" is not a level; use "debug", "info", "warn" or "error"`},
		{"zero limit", "[limits]\n\npage-size = 0\n",
			`x.toml:3:13: limits.page-size: 0 is out of range; at least 1, at most 100000`},
		{"negative limit, dotted", "limits.owner-bytes = -1\n",
			`x.toml:1:22: limits.owner-bytes: -1 is out of range; at least 1, at most 65536`},
		{"helper without command", "[on-lost.x]\ntimeout = \"1m\"\n",
			`x.toml:1:2: on-lost.x.command: must be a list of strings, like ["/usr/libexec/dlmlockd/libvirt-lost"]`},
		{"helper as a text", "[on-lost.x]\ncommand = \"/bin/x -v\"\n",
			`x.toml:2:11: on-lost.x.command: must be a list of strings, like ["/usr/libexec/dlmlockd/libvirt-lost"]`},
		{"helper without directory", "[on-lost.x]\ncommand = [\"x\"]\n",
			`x.toml:2:1: on-lost.x.command: "x" must be the absolute path of a program`},
		{"helper's name", "[on-lost.\"a b\"]\ncommand = [\"/x\"]\n",
			`x.toml:2:1: on-lost.a b.command: "a b" can't name a helper: 1 to 64 lower case letters, digits, - and _`},
		{"helper's key", "[on-lost.x]\ncommand = [\"/x\"]\nshell = true\n", `x.toml:3:1: on-lost.x.shell: unknown key`},
		{"helper's uids", "on-lost.x = { command = [\"/x\"], uids = [1, -1] }\n",
			`x.toml:1:13: on-lost.x.uids[1]: must be the number of a user`},
		{"helper's timeout", "[on-lost.x]\ncommand = [\"/x\"]\ntimeout = \"1h\"\n",
			`x.toml:3:11: on-lost.x.timeout: 1h is out of range; at least 1s, at most 10m0s`},
		{"unknown key among others", "log-level = \"x\"\nengin = 1\n[limits]\npage-size = 0\nfoo = 2\n",
			"x.toml:1:13: log-level: \"x\" is not a level; use \"debug\", \"info\", \"warn\" or \"error\"\n" +
				"x.toml:2:1: engin: unknown key\n" +
				"x.toml:4:13: limits.page-size: 0 is out of range; at least 1, at most 100000\n" +
				"x.toml:5:1: limits.foo: unknown key"},
		{"limits as a number", "limits = 3\n",
			`x.toml:1:10: limits: must be a table: a line [limits], and its keys below`},
		{"limits as several tables", "[[limits]]\npage-size = 3\n",
			`x.toml:1:3: limits: must be a table: a line [limits], and its keys below`},
		{"helpers as a text", "on-lost = \"/bin/x\"\n",
			`x.toml:1:11: on-lost: must be a table: a line [on-lost], and its keys below`},
		{"helper as a path", "[on-lost]\nx = \"/bin/x\"\n",
			`x.toml:2:5: on-lost.x: must be a table: a line [on-lost.x], and its keys below`},
		{"virtlockd as a switch", "virtlockd = true\n",
			`x.toml:1:13: virtlockd: must be a table: a line [virtlockd], and its keys below`},
		{"lockspaces of virtlockd as a list", "[virtlockd]\nlockspaces = [\"a\"]\n",
			`x.toml:2:1: virtlockd.lockspaces: must be a table: a line [virtlockd.lockspaces], and its keys below`},
		{"directory twice", "[virtlockd.lockspaces]\n\"/a\" = \"x\"\n\"/a/\" = \"y\"\n",
			`x.toml:3:9: virtlockd.lockspaces./a/: the same directory has the lockspace "x" in another line; ` +
				`keep one of them`},
		{"socket with a long path", "[virtlockd]\nsocket = \"/" + strings.Repeat("x", 107) + "\"\n",
			`x.toml:2:10: virtlockd.socket: the path of a socket has at most 107 bytes, this one has 108`},
		{"NUL in a path", "metrics-file = \"/x\\u0000.prom\"\n",
			`x.toml:1:16: metrics-file: "/x\x00.prom" can't be the path of a file: it contains the character U+0000`},
		{"control characters in a key", "\"a\\n\\u202eb\" = 1\n", `x.toml:1:1: "a\n\u202eb": unknown key`},
		{"control characters in a group", "group = \"\\u202ea\"\n",
			`x.toml:1:9: group: "\u202ea" is not the name of a group; leave the key out to let only root change locks`},
		{"long key", strings.Repeat("a", 1000) + " = 1\n",
			"x.toml:1:1: " + strings.Repeat("a", 128) + "...: unknown key"},
		{"two at once", "log-level = \"x\"\nengine = \"y\"\n",
			"x.toml:1:13: log-level: \"x\" is not a level; use \"debug\", \"info\", \"warn\" or \"error\"\n" +
				`x.toml:2:10: engine: "y" is not an engine; use "dlm" or "local"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := config.Parse("x.toml", []byte(tc.text))
			require.EqualError(t, err, tc.want)
			var e *config.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, "x.toml", e.File)
			require.Positive(t, e.Line)
		})
	}
}

// Beside mistakes the configuration has what is right, in which there may be more of them.
func TestMistakesLeaveTheRest(t *testing.T) {
	c, err := config.Parse("x.toml", []byte("engin = 1\ngroup = \"g\"\n[on-lost.a]\ncommand = [\"/a\"]\n"+
		"group = \"a b\"\n[on-lost.b]\ncommand = [\"b\"]\ngroup = \"h\"\n"))
	var es config.Errors
	require.ErrorAs(t, err, &es)
	require.Len(t, es, 3)
	require.Equal(t, "g", c.Group)
	require.Equal(t, []string{"/a"}, c.OnLost["a"].Command)
	require.Empty(t, c.OnLost["a"].Group)
	require.Empty(t, c.OnLost["b"].Command)
	require.Equal(t, "h", c.OnLost["b"].Group)

	_, err = config.Parse("x.toml", []byte(strings.Repeat("[[c]]\na = 1\n", 5000)))
	require.ErrorAs(t, err, &es)
	require.LessOrEqual(t, len(es), 100, "nobody reads more")
}

func TestLoad(t *testing.T) {
	_, err := config.Load(filepath.Join(t.TempDir(), "absent.toml"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// The installed example states every default in comments. It loads as it is, and it still loads
// when the comment sign before each key is removed, so no key in it can be misspelt.
func TestShippedExample(t *testing.T) {
	data, err := os.ReadFile("../data/dlmlockd.toml")
	require.NoError(t, err)
	c, err := config.Parse("dlmlockd.toml", data)
	require.NoError(t, err)
	c.Source = nil
	require.Equal(t, config.Default(), c, "the example changes nothing until it is edited")

	var lines []string
	keys := 0
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "#"); ok &&
			(strings.Contains(rest, " = ") || strings.HasPrefix(rest, "[")) && !strings.HasPrefix(rest, " ") {
			line = rest
			keys++
		}
		lines = append(lines, line)
	}
	c, err = config.Parse("dlmlockd.toml", []byte(strings.Join(lines, "")))
	require.NoError(t, err)
	require.Equal(t, 29, keys, "every key and the headers of the tables are in the example")
	require.NotZero(t, c.Limits.PageSize)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("engine = \"dlm\"\n[limits]\npage-size = 3\n"))
	f.Add([]byte("lockspaces = [\"a\", 'b', \"\"\"c\"\"\"]\nlimits = { owner-bytes = 3 }\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Parse("x", data)
		if err == nil {
			require.True(t, config.ValidEngine(c.Engine))
			return
		}
		require.NotEmpty(t, err.Error())
	})
}

func TestParseLevel(t *testing.T) {
	for name, want := range map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo,
		"warn": slog.LevelWarn, "warning": slog.LevelWarn, "error": slog.LevelError} {
		level, ok := config.ParseLevel(name)
		require.True(t, ok, name)
		require.Equal(t, want, level, name)
	}
	for _, name := range []string{"", "Warn", "notice", "4"} {
		_, ok := config.ParseLevel(name)
		require.False(t, ok, name)
	}
}
