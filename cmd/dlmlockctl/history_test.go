package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The ids of the messages are those that the service gives them.
func TestHistoryKnowsTheMessages(t *testing.T) {
	text, err := os.ReadFile("../../lockd/table/messages.go")
	require.NoError(t, err)
	for message, id := range map[string]string{
		"acquired": msgAcquired, "converted": msgConverted, "released": msgReleased, "lock lost": msgLost,
		"waited in vain": msgWaited, "orphan adopted": msgAdopted,
		"the history of the locks is not complete: there were too many lines": msgIncomplete,
	} {
		require.Regexp(t, `message\.New\("`+id+`",\s+`+regexp.QuoteMeta(fmt.Sprintf("%q", message))+`\)`, string(text))
	}
}

// line is an entry for chronicle, n seconds after the beginning.
func line(n int, id string, fields ...string) entry {
	e := entry{at: time.Unix(1e9+int64(n), 0), fields: map[string]string{
		"MESSAGE_ID": id, "_HOSTNAME": "one", "_BOOT_ID": "b1", "DLM_LOCKSPACE": "vms", "DLM_RESOURCE": "a", "DLM_LKID": "2",
		"DLM_MODE": "EX", "DLM_OWNER": "web", "CALLER_UID": "0",
	}}
	for i := 0; i < len(fields); i += 2 {
		e.fields[fields[i]] = fields[i+1]
	}
	return e
}

// told shows periods in one line each.
func told(entries ...entry) string {
	c := newChronicle()
	for _, e := range entries {
		c.add(e)
	}
	var b strings.Builder
	for _, p := range c.periods() {
		second := func(t *time.Time) string {
			if t == nil {
				return "?"
			}
			return fmt.Sprint(t.Unix() - 1e9)
		}
		fmt.Fprintf(&b, "%s %s/%s %s %s %s-%s %s\n", p.Host, p.Lockspace, p.Resource, p.Mode, p.Owner, second(p.From),
			second(p.Until),
			strings.TrimSpace(p.End+" "+p.Reason))
	}
	return b.String()
}

func TestChronicle(t *testing.T) {
	for name, tc := range map[string]struct {
		entries []entry
		want    string
	}{
		"taken and released": {
			[]entry{line(1, msgAcquired), line(5, msgReleased, "DLM_MODE", "--")},
			"one vms/a EX web 1-5 released\n",
		},
		"still held": {[]entry{line(1, msgAcquired)}, "one vms/a EX web 1-? held\n"},
		"converted": {
			[]entry{line(1, msgAcquired), line(3, msgConverted, "DLM_MODE", "PR"), line(4, msgReleased)},
			"one vms/a EX web 1-3 converted to PR\none vms/a PR web 3-4 released\n",
		},
		"lost": {
			[]entry{line(1, msgAcquired), line(9, msgLost, "DLM_ERROR", "the node left")},
			"one vms/a EX web 1-9 lost the node left\n",
		},
		"the journal begins later": {[]entry{line(5, msgReleased)}, "one vms/a  web ?-5 released\n"},
		"waited in vain": {
			[]entry{line(9, msgWaited, "DLMLOCKD_WAITED", "3s", "DLM_LKID", "", "DLM_OWNER", "db", "DLM_ERROR", "held by web")},
			"one vms/a EX db 6-9 waited held by web\n",
		},
		"the node crashed": {
			[]entry{line(1, msgAcquired), line(9, msgAcquired, "_BOOT_ID", "b2")},
			"one vms/a EX web 1-? unknown\none vms/a EX web 9-? held\n",
		},
		"a crash of another node": {
			[]entry{line(1, msgAcquired), line(2, msgAcquired, "_HOSTNAME", "two", "_BOOT_ID", "b2", "DLM_LKID", "9")},
			"one vms/a EX web 1-? held\ntwo vms/a EX web 2-? held\n",
		},
		"the lockid is used again": {
			[]entry{line(1, msgAcquired), line(4, msgAcquired, "DLM_RESOURCE", "b"), line(6, msgReleased, "DLM_RESOURCE", "b")},
			"one vms/a EX web 1-? unknown\none vms/b EX web 4-6 released\n",
		},
		"an orphan": {
			[]entry{line(1, msgAdopted), line(2, msgReleased)},
			"one vms/a EX web 1-2 released\n",
		},
	} {
		require.Equal(t, tc.want, told(tc.entries...), name)
	}
}

func TestJournalText(t *testing.T) {
	for in, want := range map[string]string{
		`"web"`: "web", `[119,101,98,255]`: "web\xff", `["a","b"]`: "a", `[[97],[98]]`: "a", `null`: "",
	} {
		require.Equal(t, want, journalText([]byte(in)), in)
	}
	_, err := parseEntry([]byte(`{"MESSAGE":"no time"}`))
	require.Error(t, err)
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1234 * time.Microsecond: "1.2ms", 61 * time.Second: "1m1s", 90 * time.Minute: "1h30m",
		50 * time.Hour:          "2d2h",
		2345 * time.Millisecond: "2.3s",
	} {
		require.Equal(t, want, span(d.Microseconds()).text)
	}
}

// The history of locks of the real service, from the journal that a real journald
// keeps of it. Both run in a mount namespace of their own, whose /run is empty.
func TestHistoryFromJournald(t *testing.T) {
	const journald = "/usr/lib/systemd/systemd-journald"
	require.FileExists(t, journald, "apt-get install systemd")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "story.sh"), []byte(historyStory), 0o755))
	cmd := exec.Command("unshare", "--mount", "--propagation=private", "sh", "-eu", filepath.Join(dir, "story.sh"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"), "JOURNALD="+journald, "TZ=UTC", "DIR="+dir)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err, "%s", out)
		return string(text)
	}
	for _, want := range []string{
		`(?m)^vms/a +EX +web +\S+ +\S+ +converted to PR$`,
		`(?m)^vms/a +PR +web +\S+ +\S+ +released$`,
		`(?m)^vms/a +EX +db +\S+ +- +waited in vain for 1\.\ds$`,
		`(?m)^vms/b +EX +the label +\S+ +\S+ +LOST: `,
		`(?m)^other/c +NL +web +\S+ +\S+ +held$`,
	} {
		require.Regexp(t, want, read("all"))
	}
	require.NotContains(t, read("resource"), "vms/b")
	require.Contains(t, read("resource"), "vms/a")
	requireConform(t, "history", read("json"))
	require.Contains(t, read("json"), `"end": "lost"`)
	require.Equal(t, 2, strings.Count(read("last"), "\n"), "a heading and the last line")
	require.Contains(t, read("odd"), `vms/odd\x1bname`)
	require.Equal(t, "[]\n", read("nothing"))
}

// historyStory runs in the namespace.
const historyStory = `
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
await() {
	n=0
	until "$@" >/dev/null 2>&1; do
		n=$((n + 1))
		test $n -lt 200 || { echo "waited in vain: $*"; exit 1; }
		sleep 0.05
	done
}
"$JOURNALD" 2>journald.err &
journald=$!
trap 'kill $journald $(cat daemon.pid bus.pid) 2>/dev/null' EXIT
await test -S /run/systemd/journal/socket
cat >bus.conf <<END
<busconfig><type>system</type><listen>unix:path=$DIR/bus</listen>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_type="signal"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/>
</policy></busconfig>
END
dbus-daemon --config-file=bus.conf --nofork --nopidfile & echo $! >bus.pid
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=$DIR/bus
await busctl --address=$DBUS_SYSTEM_BUS_ADDRESS --no-pager list >/dev/null
dlmlockd --engine=local --state-dir=$DIR/state 2>daemon.err & echo $! >daemon.pid
await dlmlockctl status
busctl --address=$DBUS_SYSTEM_BUS_ADDRESS set-property org.example.DlmLock /org/freedesktop/LogControl1 \
	org.freedesktop.LogControl1 LogTarget s journal
dlmlockctl -q join vms
dlmlockctl -q join other
dlmlockctl -q acquire vms a EX --owner=web
dlmlockctl -q acquire vms a EX --owner=db --wait=1100ms 2>/dev/null && exit 1
dlmlockctl -q convert vms a PR --owner=web
dlmlockctl -q release vms a
dlmlockctl -q acquire vms "$(printf 'odd\033name')" EX
dlmlockctl -q acquire other c NL --owner=web
dlmlockctl -q acquire vms b EX --label='the label'
dlmlockctl -q leave vms --force
await sh -c "dlmlockctl history vms b | grep -q LOST"
dlmlockctl history >all
dlmlockctl history vms a >resource
dlmlockctl history --json >json
dlmlockctl history --owner=web --limit=1 >last
dlmlockctl history vms "$(printf 'odd\033name')" >odd
dlmlockctl history nowhere --json >nothing
`
